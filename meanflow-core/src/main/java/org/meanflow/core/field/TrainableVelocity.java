package org.meanflow.core.field;

import org.jspecify.annotations.Nullable;
import org.nd4j.linalg.api.ndarray.INDArray;

/** A field with parameters: an evaluation can be followed by a backward pass. */
public interface TrainableVelocity extends DifferentiableVelocity {

  /**
   * One forward pass for u and du/dt that remembers what {@link Pass#backward} needs.
   *
   * @param z as in {@link AverageVelocity#u}
   * @param r as in {@link AverageVelocity#u}
   * @param t as in {@link AverageVelocity#u}
   * @param labels as in {@link AverageVelocity#u}
   * @param tangent direction for the first m samples; not changed
   * @return the recorded evaluation; the caller closes it
   */
  Pass pass(INDArray z, double[] r, double[] t, int @Nullable [] labels, Tangent tangent);

  /**
   * A recorded evaluation. Close it to give back its memory; the arrays handed out stay valid.
   *
   * <p>u_tgt is under stop-gradient (eq. 10), so only u has a cotangent, never du/dt.
   */
  interface Pass extends AutoCloseable {

    /** {@return u(z, r, t | c), shape {@code [batch, ...]}} */
    INDArray u();

    /** {@return the Jacobian-vector product, shape {@code [m, ...]}} */
    INDArray jvp();

    /**
     * Adds the gradient of ⟨cotangent, u⟩ to the gradients of the field's parameters.
     *
     * @param cotangent ∂loss/∂u, shape of u; not changed
     * @throws IllegalStateException when called a second time
     */
    void backward(INDArray cotangent);

    /**
     * Finds where the first NaN or infinity arose. Slow; meant for the report of a run that has
     * already failed.
     *
     * @return the name of the layer (in the order of evaluation) or, after {@link #backward}, of
     *     the parameter whose gradient broke first; {@code null} if all is finite
     */
    @Nullable String firstNonFinite();

    @Override
    void close();
  }
}
