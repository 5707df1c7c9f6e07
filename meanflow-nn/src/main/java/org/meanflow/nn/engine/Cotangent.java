package org.meanflow.nn.engine;

import java.util.function.DoubleConsumer;

/**
 * Where a backward kernel puts the cotangent of one of its inputs.
 *
 * @param target tensor of the shape of the input
 * @param add whether to add to {@code target} or to overwrite it
 * @param squares told Σ target² as it is after the kernel has written, in float64, by kernels that
 *     sum up what they write; others never call it
 */
public record Cotangent(Tensor target, boolean add, DoubleConsumer squares) {

  /**
   * A place whose sum of squares nobody asks for.
   *
   * @param target tensor of the shape of the input
   * @param add whether to add to {@code target} or to overwrite it
   */
  public Cotangent(Tensor target, boolean add) {
    this(target, add, sum -> {});
  }

  /**
   * The same place.
   *
   * @param matrix a view of all elements of {@code target}
   * @return with that view as target
   */
  public Cotangent as(Tensor matrix) {
    return new Cotangent(matrix, add, squares);
  }
}
