package org.meanflow.core.field;

import org.jspecify.annotations.Nullable;
import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * An average-velocity field u(z, r, t | c) (arXiv 2505.13447, eq. 3): the mean of the instantaneous
 * velocity between the times r and t along the trajectory that passes through z at time t. Time 1
 * is noise, time 0 is data, so one step from t to r is z_r = z − (t − r)·u(z, r, t | c).
 *
 * <p>Everything in core and in the samplers sees a network through this interface and its two
 * refinements {@link DifferentiableVelocity} and {@link TrainableVelocity}.
 */
public interface AverageVelocity {

  /** The label of a sample without a class: the field is then unconditional, written u(· | ∅). */
  int NO_LABEL = -1;

  /**
   * Evaluates u(z, r, t | c) for a batch.
   *
   * @param z points, shape {@code [batch, ...]}, float32 or float64; not changed
   * @param r earlier times, one for each sample, 0 ≤ r ≤ t
   * @param t current times, one for each sample, r ≤ t ≤ 1
   * @param labels class of each sample, {@link #NO_LABEL} where it has none; {@code null} if no
   *     sample has one
   * @return u, a new array of the shape and data type of {@code z}
   * @throws IllegalArgumentException if lengths, shapes or labels do not fit
   */
  INDArray u(INDArray z, double[] r, double[] t, int @Nullable [] labels);

  /**
   * Evaluates the instantaneous velocity v(z, t | c) = u(z, t, t | c).
   *
   * @param z as in {@link #u}
   * @param t times, one for each sample, in [0, 1]
   * @param labels as in {@link #u}
   * @return v, a new array of the shape and data type of {@code z}
   */
  default INDArray v(INDArray z, double[] t, int @Nullable [] labels) {
    return u(z, t, t, labels);
  }
}
