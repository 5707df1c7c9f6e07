package org.meanflow.core.field;

import org.jspecify.annotations.Nullable;
import org.nd4j.linalg.api.ndarray.INDArray;

/** An average-velocity field that can be differentiated along a direction of (z, r, t). */
public interface DifferentiableVelocity extends AverageVelocity {

  /**
   * Evaluates u(z, r, t | c) and its Jacobian-vector product along {@code tangent}.
   *
   * @param z as in {@link AverageVelocity#u}
   * @param r as in {@link AverageVelocity#u}
   * @param t as in {@link AverageVelocity#u}
   * @param labels as in {@link AverageVelocity#u}
   * @param tangent direction for the first m samples; not changed
   * @return new arrays of the data type of {@code z}
   */
  Derivative derivative(
      INDArray z, double[] r, double[] t, int @Nullable [] labels, Tangent tangent);
}
