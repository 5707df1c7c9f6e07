package org.meanflow.core.time;

import org.meanflow.core.random.RandomStream;

/**
 * The logit-normal law: sigmoid(mean + std·n) with n ~ N(0, 1) (Esser et al., arXiv 2403.03206).
 * The paper trains with (−0.4, 1) on ImageNet (arXiv 2505.13447).
 *
 * @param mean mean of the logit, finite; below 0 favours times near the data
 * @param std standard deviation of the logit, finite and &gt; 0
 */
public record LogitNormal(double mean, double std) implements TimeLaw {

  /** Refuses values outside the ranges of the parameters. */
  public LogitNormal {
    if (!Double.isFinite(mean)) {
      throw new IllegalArgumentException("mean must be finite, got " + mean);
    }
    if (!(std > 0 && Double.isFinite(std))) {
      throw new IllegalArgumentException("std must be finite and > 0, got " + std);
    }
  }

  @Override
  public double draw(RandomStream random) {
    return fromNormal(random.nextNormal());
  }

  /**
   * The time that belongs to a standard normal number.
   *
   * @param n a standard normal number
   * @return sigmoid(mean + std·n)
   */
  public double fromNormal(double n) {
    return 1 / (1 + Math.exp(-(mean + std * n)));
  }
}
