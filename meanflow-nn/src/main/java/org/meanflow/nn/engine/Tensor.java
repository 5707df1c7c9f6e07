package org.meanflow.nn.engine;

import java.util.Arrays;

/**
 * An array that belongs to an {@link Engine}: contiguous, row-major, of the engine's number type.
 *
 * <p>Closing a tensor that {@link Engine#allocate} made gives its memory back to the engine;
 * closing it again, or closing a view, does nothing. A view must not be used after its owner was
 * closed.
 */
public interface Tensor extends AutoCloseable {

  /** {@return the extents, outermost first; not to be changed} */
  long[] shape();

  /** {@return how precisely the elements are kept} */
  Storage storage();

  /**
   * A view on some of the elements.
   *
   * @param offset first element, row-major
   * @param shape extents of the view
   * @return the view
   * @throws IndexOutOfBoundsException if it reaches outside this tensor
   */
  Tensor view(long offset, long... shape);

  @Override
  void close();

  /** {@return the number of elements} */
  default long size() {
    return size(shape());
  }

  /**
   * One extent.
   *
   * @param i dimension; negative ones count from the last, −1
   * @return the extent of dimension {@code i}
   */
  default long dim(int i) {
    long[] shape = shape();
    return shape[i < 0 ? shape.length + i : i];
  }

  /**
   * Rows of the first dimension.
   *
   * @param from first row
   * @param to row after the last
   * @return a view
   */
  default Tensor rows(long from, long to) {
    long[] shape = shape().clone();
    long row = shape[0] == 0 ? 0 : size() / shape[0];
    shape[0] = to - from;
    return view(from * row, shape);
  }

  /**
   * The same elements under another shape.
   *
   * @param shape extents, of as many elements
   * @return a view
   * @throws IllegalArgumentException if {@code shape} has another number of elements
   */
  default Tensor reshape(long... shape) {
    if (size(shape) != size()) {
      throw new IllegalArgumentException(
          "shape must have " + size() + " elements, got " + Arrays.toString(shape));
    }
    return view(0, shape);
  }

  /**
   * The elements as a matrix.
   *
   * @param columns extent of the last dimension; divides the size
   * @return a view {@code [size / columns, columns]}
   */
  default Tensor matrix(long columns) {
    return reshape(size() / columns, columns);
  }

  /**
   * The number of elements of an array.
   *
   * @param shape its extents
   * @return their product
   * @throws ArithmeticException if that exceeds a {@code long}
   */
  static long size(long... shape) {
    long size = 1;
    for (long extent : shape) {
      size = Math.multiplyExact(size, extent);
    }
    return size;
  }
}
