package org.meanflow.nn.engine.nd4j;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/** A row-major window on a flat ND4J array. */
final class Nd4jTensor implements Tensor {
  private final INDArray flat;
  private final long offset;
  private final long[] shape;
  private final @Nullable Nd4jEngine owner;
  private @Nullable INDArray array;
  private boolean closed;

  /** {@code owner} gets the memory back on close; {@code null} for a view. */
  Nd4jTensor(INDArray flat, long offset, long[] shape, @Nullable Nd4jEngine owner) {
    this.flat = flat;
    this.offset = offset;
    this.shape = shape;
    this.owner = owner;
  }

  @Override
  public long[] shape() {
    return shape;
  }

  @Override
  public Storage storage() {
    return Storage.FULL;
  }

  @Override
  public Tensor view(long start, long... viewShape) {
    long size = Tensor.size(viewShape);
    if (start < 0 || size < 0 || start + size > size()) {
      throw new IndexOutOfBoundsException(
          "view of shape %s at %d does not lie within %s"
              .formatted(Arrays.toString(viewShape), start, Arrays.toString(shape)));
    }
    return new Nd4jTensor(flat, offset + start, viewShape, null);
  }

  /** This tensor as an ND4J array on the same memory. */
  INDArray array() {
    INDArray existing = array;
    if (existing == null) {
      existing = strided(0, shape, Nd4j.getStrides(shape, 'c'));
      array = existing;
    }
    return existing;
  }

  /** An ND4J view with other strides on the same memory, from element {@code start} on. */
  INDArray strided(long start, long[] viewShape, long[] strides) {
    return Nd4j.create(flat.data(), viewShape, strides, offset + start, 'c');
  }

  /** The same elements as a column-major matrix. */
  INDArray columnMajor(long rows, long columns) {
    return Nd4j.create(flat.data(), new long[] {rows, columns}, new long[] {1, rows}, offset, 'f');
  }

  @Override
  public void close() {
    if (owner != null && !closed) {
      closed = true;
      owner.recycle(flat);
    }
  }
}
