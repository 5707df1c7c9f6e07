package org.meanflow.train.optim;

/**
 * The learning rate η of each step: a linear warm-up, then constant or falling as half a cosine.
 *
 * <pre>{@code
 * step < W             η = rate·(step + 1)/W                       W = warmupSteps
 * CONSTANT             η = rate
 * COSINE               η = rate·(f + (1 − f)·(1 + cos πs)/2)       f = finalFraction
 *                      s = min(1, (step − W)/(totalSteps − W))
 * }</pre>
 *
 * <p>A warm-up longer than the run is allowed and simply not finished.
 *
 * @param rate the largest rate, finite and &gt; 0
 * @param warmupSteps steps of the warm-up, ≥ 0
 * @param kind what follows the warm-up
 * @param totalSteps steps of the run, ≥ 1
 * @param finalFraction what the cosine falls to, as a fraction of {@code rate}, in [0, 1]
 */
public record LearningRate(
    double rate, long warmupSteps, Kind kind, long totalSteps, double finalFraction) {

  /** What follows the warm-up. */
  public enum Kind {
    /** The rate stays. */
    CONSTANT,
    /** The rate falls as half a cosine (Loshchilov and Hutter, arXiv 1608.03983, no restarts). */
    COSINE
  }

  /** Refuses values outside the ranges of the parameters. */
  public LearningRate {
    if (!(rate > 0 && Double.isFinite(rate))) {
      throw new IllegalArgumentException("rate must be finite and > 0, got " + rate);
    }
    if (warmupSteps < 0) {
      throw new IllegalArgumentException("warmupSteps must be >= 0, got " + warmupSteps);
    }
    if (totalSteps < 1) {
      throw new IllegalArgumentException("totalSteps must be >= 1, got " + totalSteps);
    }
    if (!(finalFraction >= 0 && finalFraction <= 1)) {
      throw new IllegalArgumentException("finalFraction must be in [0, 1], got " + finalFraction);
    }
  }

  /**
   * The rate of a step.
   *
   * @param step training step, counted from 0
   * @return η, in [0, {@code rate}]
   */
  public double at(long step) {
    if (step < 0) {
      throw new IllegalArgumentException("step must be >= 0, got " + step);
    }
    if (step < warmupSteps) {
      return rate * ((step + 1) / (double) warmupSteps);
    }
    return switch (kind) {
      case CONSTANT -> rate;
      case COSINE -> {
        double s =
            step >= totalSteps ? 1 : (step - warmupSteps) / (double) (totalSteps - warmupSteps);
        yield rate * (finalFraction + (1 - finalFraction) * (1 + Math.cos(Math.PI * s)) / 2);
      }
    };
  }
}
