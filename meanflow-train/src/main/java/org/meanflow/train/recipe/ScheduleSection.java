package org.meanflow.train.recipe;

import org.jspecify.annotations.Nullable;
import org.meanflow.train.optim.LearningRate;

/**
 * The section {@code schedule}: how the learning rate changes.
 *
 * @param kind what follows the warm-up
 * @param warmupSteps steps of the warm-up
 * @param finalFraction what the cosine falls to, as a fraction of the rate; {@code null} for 0
 */
public record ScheduleSection(
    LearningRate.Kind kind, long warmupSteps, @Nullable Double finalFraction) {

  /** Refuses what {@link LearningRate} refuses. */
  public ScheduleSection {
    learningRate(kind, warmupSteps, finalFraction, 1, 1);
  }

  /**
   * The schedule of a run.
   *
   * @param rate learning rate after the warm-up, finite and &gt; 0
   * @param steps steps of the run, ≥ 1
   * @return the rate of each step
   */
  public LearningRate learningRate(double rate, long steps) {
    return learningRate(kind, warmupSteps, finalFraction, rate, steps);
  }

  private static LearningRate learningRate(
      LearningRate.Kind kind,
      long warmupSteps,
      @Nullable Double finalFraction,
      double rate,
      long steps) {
    double fraction = finalFraction == null ? 0 : finalFraction;
    return new LearningRate(rate, warmupSteps, kind, steps, fraction);
  }
}
