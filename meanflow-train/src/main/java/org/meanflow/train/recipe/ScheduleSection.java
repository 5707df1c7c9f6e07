package org.meanflow.train.recipe;

import org.meanflow.train.optim.LearningRate;

/**
 * The section {@code schedule}: how the learning rate changes.
 *
 * @param kind what follows the warm-up
 * @param warmupSteps steps of the warm-up
 * @param finalFraction what the cosine falls to, as a fraction of the rate
 * @param referenceSteps steps after which the inverse root begins to fall; only it looks at it, and
 *     needs it
 */
public record ScheduleSection(
    LearningRate.Kind kind,
    long warmupSteps,
    @Default("0") double finalFraction,
    @Default("0") long referenceSteps) {

  /** Refuses what {@link LearningRate} refuses. */
  public ScheduleSection {
    new LearningRate(1, warmupSteps, kind, 1, finalFraction, referenceSteps);
  }

  /**
   * The schedule of a run.
   *
   * @param rate learning rate after the warm-up, finite and &gt; 0
   * @param steps steps of the run, ≥ 1
   * @return the rate of each step
   */
  public LearningRate learningRate(double rate, long steps) {
    return new LearningRate(rate, warmupSteps, kind, steps, finalFraction, referenceSteps);
  }
}
