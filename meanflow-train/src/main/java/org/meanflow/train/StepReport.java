package org.meanflow.train;

/**
 * What a training step measured.
 *
 * @param step the step, counted from 0
 * @param epoch the epoch that the step's first sample belongs to, counted from 0
 * @param loss value of the objective
 * @param meanSquaredError mean of (u − u_tgt)² over the batch; with an adaptive loss of power 1 the
 *     loss itself says little
 * @param rate learning rate of the step
 * @param gradientNorm Euclidean norm of the gradient before clipping
 * @param dataWait for how long the step waited for its data, in seconds
 * @param guard what the guard had to say: that the step was skipped, or is a spike; else empty
 */
public record StepReport(
    long step,
    long epoch,
    double loss,
    double meanSquaredError,
    double rate,
    double gradientNorm,
    double dataWait,
    String guard) {}
