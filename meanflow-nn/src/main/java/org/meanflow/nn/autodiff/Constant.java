package org.meanflow.nn.autodiff;

/**
 * Fixed numbers of a network: not trained, not saved, the same in every {@link ParameterStore}.
 *
 * @param values row-major values
 * @param shape extents
 */
public record Constant(double[] values, long[] shape) {}
