package org.meanflow.train.run;

import java.time.Instant;

/**
 * What a training step is measured by. Each component is a key in the {@linkplain MetricsLog log},
 * each number a curve in {@linkplain TensorBoardLog TensorBoard} and, if it has a title, in the
 * {@linkplain org.meanflow.train.report.Report report}.
 *
 * @param step number of steps done, this one included
 * @param loss value of the objective
 * @param mse mean of Δ² over all elements of the batch, before weighting
 * @param lr learning rate
 * @param gradNorm norm of the gradients before clipping
 * @param stepsPerSecond speed since the last record
 * @param imagesPerSecond the same in images
 * @param dataWait for how long the step waited for its data, in seconds
 * @param epoch epoch in which the step began, counted from 0
 * @param time when the record was taken
 */
public record Metrics(
    long step,
    @Curve(value = "loss", logarithmic = true) double loss,
    @Curve(value = "mean squared error", logarithmic = true) double mse,
    @Curve("learning rate") double lr,
    @Curve(value = "gradient norm", logarithmic = true) double gradNorm,
    double stepsPerSecond,
    @Curve("images per second") double imagesPerSecond,
    double dataWait,
    long epoch,
    Instant time) {}
