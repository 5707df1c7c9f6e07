package org.meanflow.nn.engine;

import java.util.Arrays;

/**
 * An array that belongs to an {@link Engine}: contiguous, row-major, of the engine's number type.
 *
 * <p>Closing a tensor that {@link Engine#allocate} made gives its memory back to the engine;
 * closing a view does nothing. A view must not be used after its owner was closed.
 */
public interface Tensor extends AutoCloseable {

  /** The extents, outermost first; not to be changed. */
  long[] shape();

  /**
   * A view of {@code shape} on the elements from {@code offset} on.
   *
   * @throws IndexOutOfBoundsException if it reaches outside this tensor
   */
  Tensor view(long offset, long... shape);

  @Override
  void close();

  /** The number of elements. */
  default long size() {
    return size(shape());
  }

  /** The extent of dimension {@code i}; negative i count from the last. */
  default long dim(int i) {
    long[] shape = shape();
    return shape[i < 0 ? shape.length + i : i];
  }

  /** The rows {@code from} … {@code to − 1} of the first dimension, as a view. */
  default Tensor rows(long from, long to) {
    long[] shape = shape().clone();
    long row = shape[0] == 0 ? 0 : size() / shape[0];
    shape[0] = to - from;
    return view(from * row, shape);
  }

  /** The same elements under another shape, as a view. */
  default Tensor reshape(long... shape) {
    if (size(shape) != size()) {
      throw new IllegalArgumentException(
          "shape must have " + size() + " elements, got " + Arrays.toString(shape));
    }
    return view(0, shape);
  }

  /** The elements as a matrix {@code [size / columns, columns]}, as a view. */
  default Tensor matrix(long columns) {
    return reshape(size() / columns, columns);
  }

  /** The number of elements of an array of {@code shape}. */
  static long size(long... shape) {
    long size = 1;
    for (long extent : shape) {
      size = Math.multiplyExact(size, extent);
    }
    return size;
  }
}
