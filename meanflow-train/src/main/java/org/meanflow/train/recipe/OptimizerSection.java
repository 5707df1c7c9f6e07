package org.meanflow.train.recipe;

import org.jspecify.annotations.Nullable;
import org.meanflow.train.optim.AdamWConfig;

/**
 * The section {@code optimizer}: AdamW and its largest learning rate.
 *
 * @param rate learning rate after the warm-up, finite and &gt; 0
 * @param beta1 decay of the first moment
 * @param beta2 decay of the second moment
 * @param epsilon ε, outside the root
 * @param weightDecay decoupled weight decay
 * @param clipNorm largest norm of the gradient; {@code null} for no clipping
 */
public record OptimizerSection(
    double rate,
    double beta1,
    double beta2,
    double epsilon,
    double weightDecay,
    @Nullable Double clipNorm) {

  /** Refuses what {@link AdamWConfig} refuses, and a rate that is not positive. */
  public OptimizerSection {
    if (!(rate > 0 && Double.isFinite(rate))) {
      throw new IllegalArgumentException("rate must be finite and > 0, got " + rate);
    }
    adamW(beta1, beta2, epsilon, weightDecay, clipNorm);
  }

  /** {@return the optimiser} */
  public AdamWConfig adamW() {
    return adamW(beta1, beta2, epsilon, weightDecay, clipNorm);
  }

  private static AdamWConfig adamW(
      double beta1, double beta2, double epsilon, double weightDecay, @Nullable Double clipNorm) {
    double clip = clipNorm == null ? Double.POSITIVE_INFINITY : clipNorm;
    return new AdamWConfig(beta1, beta2, epsilon, weightDecay, clip);
  }
}
