package org.meanflow.core.field;

import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * The value of a field and its derivative along a {@link Tangent}, from one evaluation.
 *
 * @param u u(z, r, t | c), shape {@code [batch, ...]}
 * @param jvp the Jacobian of u applied to the tangent, shape {@code [m, ...]}; along (v, 0, 1) it
 *     is the total derivative du/dt
 */
public record Derivative(INDArray u, INDArray jvp) {}
