package org.meanflow.nn.engine.cpu;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;

/** A row-major window on off-heap memory, of float32 or bfloat16 elements. */
final class CpuTensor implements Tensor {
  private final Memory.Block block;
  private final long address;
  private final long[] shape;
  private final Storage storage;
  private final boolean half;
  private @Nullable Memory owner;

  /** {@code owner} gets the block back on close; {@code null} for a view. */
  CpuTensor(
      Memory.Block block,
      long address,
      Storage storage,
      boolean half,
      long[] shape,
      @Nullable Memory owner) {
    this.block = block;
    this.address = address;
    this.storage = storage;
    this.half = half;
    this.shape = shape;
    this.owner = owner;
  }

  static CpuTensor of(Tensor tensor) {
    return (CpuTensor) tensor;
  }

  /** Of the first element. */
  long address() {
    return address;
  }

  /** Of an element. */
  long address(long element) {
    return address + element * elementBytes();
  }

  /** Whether the elements are bfloat16. */
  boolean half() {
    return half;
  }

  int elementBytes() {
    return half ? Short.BYTES : Float.BYTES;
  }

  Memory.Block block() {
    return block;
  }

  /** To be called by the kernels that may change parameters: packed copies are out of date then. */
  CpuTensor changed() {
    block.version++;
    return this;
  }

  @Override
  public long[] shape() {
    return shape;
  }

  @Override
  public Storage storage() {
    return storage;
  }

  @Override
  public Tensor view(long offset, long... viewShape) {
    long size = Tensor.size(viewShape);
    if (offset < 0 || size < 0 || offset + size > size()) {
      throw new IndexOutOfBoundsException(
          "view of shape %s at %d does not lie within %s"
              .formatted(Arrays.toString(viewShape), offset, Arrays.toString(shape)));
    }
    return new CpuTensor(block, address(offset), storage, half, viewShape, null);
  }

  @Override
  public void close() {
    Memory memory = owner;
    if (memory != null) {
      owner = null;
      memory.giveBack(block);
    }
  }
}
