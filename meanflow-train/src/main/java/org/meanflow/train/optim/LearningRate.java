package org.meanflow.train.optim;

/**
 * The learning rate η of each step: a linear warm-up, then constant, falling as half a cosine, or
 * as the inverse of a square root.
 *
 * <pre>{@code
 * step < W             η = rate·(step + 1)/W                       W = warmupSteps
 * CONSTANT             η = rate
 * COSINE               η = rate·(f + (1 − f)·(1 + cos πs)/2)       f = finalFraction
 *                      s = min(1, (step − W)/(totalSteps − W))
 * INVERSE_ROOT         η = rate·min(1, (step + 1)/W)/√max(1, step/referenceSteps)
 * }</pre>
 *
 * <p>A warm-up longer than the run is allowed and simply not finished.
 *
 * @param rate the largest rate, finite and &gt; 0
 * @param warmupSteps steps of the warm-up, ≥ 0
 * @param kind what follows the warm-up
 * @param totalSteps steps of the run, ≥ 1
 * @param finalFraction what the cosine falls to, as a fraction of {@code rate}, in [0, 1]
 * @param referenceSteps steps after which the inverse root begins to fall, ≥ 0; only it looks at
 *     it, and needs it to be ≥ 1
 */
public record LearningRate(
    double rate,
    long warmupSteps,
    Kind kind,
    long totalSteps,
    double finalFraction,
    long referenceSteps) {

  /** What follows the warm-up. */
  public enum Kind {
    /** The rate stays. */
    CONSTANT,
    /** The rate falls as half a cosine (Loshchilov and Hutter, arXiv 1608.03983, no restarts). */
    COSINE,
    /** The rate falls as 1/√step (Karras et al., arXiv 2312.02696). */
    INVERSE_ROOT
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
    long least = kind == Kind.INVERSE_ROOT ? 1 : 0;
    if (referenceSteps < least) {
      throw new IllegalArgumentException(
          "referenceSteps must be >= %d, got %d".formatted(least, referenceSteps));
    }
  }

  /**
   * A schedule without an inverse root.
   *
   * @param rate the largest rate, finite and &gt; 0
   * @param warmupSteps steps of the warm-up, ≥ 0
   * @param kind what follows the warm-up, not {@link Kind#INVERSE_ROOT}
   * @param totalSteps steps of the run, ≥ 1
   * @param finalFraction what the cosine falls to, as a fraction of {@code rate}, in [0, 1]
   */
  public LearningRate(
      double rate, long warmupSteps, Kind kind, long totalSteps, double finalFraction) {
    this(rate, warmupSteps, kind, totalSteps, finalFraction, 0);
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
      return rate * ((step + 1) / (double) warmupSteps) * inverseRoot(step);
    }
    return switch (kind) {
      case CONSTANT -> rate;
      case INVERSE_ROOT -> rate * inverseRoot(step);
      case COSINE -> {
        double s =
            step >= totalSteps ? 1 : (step - warmupSteps) / (double) (totalSteps - warmupSteps);
        yield rate * (finalFraction + (1 - finalFraction) * (1 + Math.cos(Math.PI * s)) / 2);
      }
    };
  }

  private double inverseRoot(long step) {
    return kind == Kind.INVERSE_ROOT
        ? 1 / Math.sqrt(Math.max(1, step / (double) referenceSteps))
        : 1;
  }
}
