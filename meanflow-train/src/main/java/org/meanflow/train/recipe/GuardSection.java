package org.meanflow.train.recipe;

import org.jspecify.annotations.Nullable;
import org.meanflow.train.Guard;

/**
 * The section {@code guard}: what happens to a step that must not be applied. It may be left out,
 * and so may each key.
 *
 * @param onNonFinite what a loss or gradient that is not finite leads to, and a refused spike
 * @param limit how many steps of a run may be refused by {@code skip} and {@code rollback}, ≥ 0
 * @param rollbackFactor factor on the learning rate after each rollback, in (0, 1]
 * @param spikeThreshold robust z-score of the error above which a step is refused as well, &gt; 0;
 *     {@code null} for never
 * @param window steps that a spike is compared with, ≥ 8
 */
public record GuardSection(
    @Default("stop") Guard.Policy onNonFinite,
    @Default("10") int limit,
    @Default("0.5") double rollbackFactor,
    @Nullable Double spikeThreshold,
    @Default("100") int window) {

  /** Refuses what {@link Guard.Config} refuses. */
  public GuardSection {
    config(onNonFinite, limit, rollbackFactor, spikeThreshold, window);
  }

  /** {@return the guard's configuration} */
  public Guard.Config config() {
    return config(onNonFinite, limit, rollbackFactor, spikeThreshold, window);
  }

  private static Guard.Config config(
      Guard.Policy onNonFinite,
      int limit,
      double rollbackFactor,
      @Nullable Double spikeThreshold,
      int window) {
    double threshold = spikeThreshold == null ? Double.POSITIVE_INFINITY : spikeThreshold;
    return new Guard.Config(onNonFinite, limit, rollbackFactor, threshold, window);
  }
}
