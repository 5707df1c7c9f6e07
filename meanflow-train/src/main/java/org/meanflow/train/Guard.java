package org.meanflow.train;

import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.Deque;
import java.util.List;

/**
 * Decides whether a step may be applied. A step whose loss or gradient is not finite must not be,
 * nor, if a threshold is set, one whose error is a spike.
 *
 * <p>A spike is measured by the robust z-score of ln(mean squared error) against the applied steps
 * before it: (x − median) / (1.4826·MAD), where MAD, the median distance from the median, times
 * 1.4826 is the standard deviation of a normal law. The logarithm, as the error is positive, varies
 * by factors and falls by orders of magnitude; the squared error, as an adaptive loss of power 1 is
 * close to 1 whatever happens.
 *
 * <p>What was decided before is part of a {@link Checkpoint}, so a resumed run decides the same.
 */
public final class Guard {
  /** From this z-score on, spikes are logged. */
  static final double LOGGED_SPIKE = 10;

  /** 1/Φ⁻¹(¾): makes the MAD of a normal law its standard deviation. */
  private static final double MAD_TO_DEVIATION = 1.482602218505602;

  /** An error that hardly varies is no reason to call a change of a percent a spike. */
  private static final double LEAST_DEVIATION = 1e-2;

  private final Config config;
  private final Deque<Double> recent = new ArrayDeque<>();
  private int refused;
  private long skipped;
  private double rateFactor = 1;

  /** What a step that must not be applied leads to. */
  public enum Policy {
    /** The run ends with an error. */
    STOP,
    /** The run goes on with the next batch; parameters, moments and averages stay as they are. */
    SKIP,
    /** The run goes back to its last checkpoint and on from there with a smaller rate. */
    ROLLBACK
  }

  /** What becomes of a step. */
  enum Verdict {
    APPLY,
    SKIP,
    ROLLBACK,
    STOP
  }

  /**
   * What a guard does.
   *
   * @param policy what a step that must not be applied leads to
   * @param limit how many steps of a run may be refused without ending it, ≥ 0
   * @param rollbackFactor factor on the learning rate after each rollback, in (0, 1]
   * @param spikeThreshold z-score above which a step is refused, &gt; 0; infinite for never
   * @param window applied steps that a spike is compared with, ≥ 8; before there are as many,
   *     nothing is a spike
   */
  public record Config(
      Policy policy, int limit, double rollbackFactor, double spikeThreshold, int window) {

    /** Stops at what is not finite, and at nothing else. */
    public static final Config DEFAULT =
        new Config(Policy.STOP, 0, 1, Double.POSITIVE_INFINITY, 100);

    /** Refuses values outside the ranges of the parameters. */
    public Config {
      if (limit < 0) {
        throw new IllegalArgumentException("limit must be >= 0, got " + limit);
      }
      if (!(rollbackFactor > 0 && rollbackFactor <= 1)) {
        throw new IllegalArgumentException(
            "rollbackFactor must be in (0, 1], got " + rollbackFactor);
      }
      if (!(spikeThreshold > 0)) {
        throw new IllegalArgumentException("spikeThreshold must be > 0, got " + spikeThreshold);
      }
      if (window < 8) {
        throw new IllegalArgumentException("window must be >= 8, got " + window);
      }
    }
  }

  /**
   * All that a guard remembers.
   *
   * @param recent ln(mean squared error) of the last applied steps, oldest first
   * @param refused steps refused so far
   * @param skipped those of them that were skipped
   * @param rateFactor factor on the learning rate, from rollbacks
   */
  record State(List<Double> recent, int refused, long skipped, double rateFactor) {}

  /**
   * A guard that has seen nothing.
   *
   * @param config what it does
   */
  Guard(Config config) {
    this.config = config;
  }

  /**
   * How far an error is out of the ordinary.
   *
   * @param meanSquaredError error of a step that was not applied yet
   * @return its z-score; 0 before enough steps were applied
   */
  double zScore(double meanSquaredError) {
    if (recent.size() < config.window) {
      return 0;
    }
    double[] values = recent.stream().mapToDouble(Double::doubleValue).toArray();
    double median = median(values);
    for (int i = 0; i < values.length; i++) {
      values[i] = Math.abs(values[i] - median);
    }
    double deviation = Math.max(MAD_TO_DEVIATION * median(values), LEAST_DEVIATION);
    return (logarithm(meanSquaredError) - median) / deviation;
  }

  /** Decides on a step, and remembers it. The z-score is {@link #zScore} of its error. */
  Verdict judge(double loss, double meanSquaredError, double gradientNorm, double zScore) {
    boolean finite =
        Double.isFinite(loss) && Double.isFinite(meanSquaredError) && Double.isFinite(gradientNorm);
    if (finite && !(zScore > config.spikeThreshold)) {
      recent.addLast(logarithm(meanSquaredError));
      if (recent.size() > config.window) {
        recent.removeFirst();
      }
      return Verdict.APPLY;
    }
    if (config.policy == Policy.STOP || refused >= config.limit) {
      return Verdict.STOP;
    }
    refused++;
    if (config.policy == Policy.ROLLBACK) {
      rateFactor *= config.rollbackFactor;
      return Verdict.ROLLBACK;
    }
    skipped++;
    return Verdict.SKIP;
  }

  /** Factor on the learning rate, from rollbacks. */
  double rateFactor() {
    return rateFactor;
  }

  /** Steps that were not applied, of those that the trainer counts. */
  long skipped() {
    return skipped;
  }

  State state() {
    return new State(List.copyOf(recent), refused, skipped, rateFactor);
  }

  void restore(State state) {
    recent.clear();
    recent.addAll(state.recent);
    while (recent.size() > config.window) {
      recent.removeFirst(); // the window may have been made smaller
    }
    refused = state.refused;
    skipped = state.skipped;
    rateFactor = state.rateFactor;
  }

  /** Restores what a guard remembers across a rollback: what it refused, and the rate. */
  void carryOver(State beforeRollback) {
    refused = beforeRollback.refused;
    rateFactor = beforeRollback.rateFactor;
  }

  /** Finite even for an error of 0. */
  private static double logarithm(double error) {
    return Math.log(Math.max(error, Double.MIN_NORMAL));
  }

  private static double median(double[] values) {
    double[] sorted = values.clone();
    Arrays.sort(sorted);
    int half = sorted.length / 2;
    return sorted.length % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  }
}
