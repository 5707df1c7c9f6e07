package org.meanflow.core.objective;

import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * An {@link AdaptiveLoss} evaluated on a batch.
 *
 * @param value mean over the batch of {@code perSample}. With p = 1 it is close to 1 whatever the
 *     error: watch {@code meanSquaredError} instead
 * @param meanSquaredError mean of Δ² over all elements of the batch
 * @param squaredError s for each sample, reduced as the loss says
 * @param weight w for each sample, constant under differentiation
 * @param perSample w·s for each sample
 * @param cotangent ∂value/∂u at constant w, shape and data type of u
 */
@SuppressWarnings("ArrayRecordComponent") // a result for loops over samples; never compared
public record Loss(
    double value,
    double meanSquaredError,
    double[] squaredError,
    double[] weight,
    double[] perSample,
    INDArray cotangent) {}
