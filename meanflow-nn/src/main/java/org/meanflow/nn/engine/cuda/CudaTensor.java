package org.meanflow.nn.engine.cuda;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;

/** A row-major window on a block of device memory. */
final class CudaTensor implements Tensor {
  final Block block;

  /** First element, counted from the start of the block. */
  final long offset;

  final boolean bfloat16;
  private final long[] shape;
  private final long size;
  private final @Nullable CudaEngine owner;
  private boolean closed;

  /** {@code owner} gets the memory back on close; {@code null} for a view. */
  CudaTensor(Block block, long offset, boolean bfloat16, long[] shape, @Nullable CudaEngine owner) {
    this.block = block;
    this.offset = offset;
    this.bfloat16 = bfloat16;
    this.shape = shape;
    this.size = Tensor.size(shape);
    this.owner = owner;
  }

  /** The device address of the first element. */
  long address() {
    return block.address + offset * elementBytes();
  }

  int elementBytes() {
    return bfloat16 ? 2 : 4;
  }

  @Override
  public long[] shape() {
    return shape;
  }

  @Override
  public long size() {
    return size;
  }

  @Override
  public Storage storage() {
    return bfloat16 ? Storage.COMPACT : Storage.FULL;
  }

  @Override
  public CudaTensor view(long start, long... viewShape) {
    long length = Tensor.size(viewShape);
    if (start < 0 || length < 0 || start + length > size) {
      throw new IndexOutOfBoundsException(
          "view of shape %s at %d does not lie within %s"
              .formatted(Arrays.toString(viewShape), start, Arrays.toString(shape)));
    }
    return new CudaTensor(block, offset + start, bfloat16, viewShape, null);
  }

  @Override
  public void close() {
    if (owner != null && !closed) {
      closed = true;
      owner.recycle(block);
    }
  }
}
