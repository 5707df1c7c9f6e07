package org.meanflow.train.run;

import java.time.Instant;

/**
 * What a training step is measured by. Each component is a key in the {@linkplain MetricsLog log},
 * each number a curve in {@linkplain TensorBoardLog TensorBoard} and, if it has a title, in the
 * {@linkplain org.meanflow.train.report.Report report}. A step that ended the run has a record,
 * too, without numbers.
 *
 * @param step number of steps done, this one included
 * @param loss value of the objective
 * @param mse mean of Δ² over all elements of the batch, before weighting
 * @param lr learning rate
 * @param gradNorm norm of the gradients before clipping
 * @param stepsPerSecond speed since the last record
 * @param imagesPerSecond the same in images
 * @param dataWait for how long the step waited for its data, in seconds
 * @param memory memory that the process holds, in MiB; NaN where unknown
 * @param epoch epoch in which the step began, counted from 0
 * @param guard what the {@linkplain org.meanflow.train.Guard guard} had to say: that the step is a
 *     spike, was skipped, ended the run, or is the first after a rollback; else empty
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
    @Curve("memory, MiB") double memory,
    long epoch,
    String guard,
    Instant time) {

  /**
   * The record of a step that ended the run.
   *
   * @param step its number, counted from 1
   * @param guard why
   * @return a record without numbers, taken now
   */
  public static Metrics ended(long step, String guard) {
    double none = Double.NaN;
    return new Metrics(
        step, none, none, none, none, none, none, none, none, 0, guard, Instant.now());
  }
}
