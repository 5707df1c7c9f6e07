package org.meanflow.train.optim;

import org.meanflow.nn.engine.OptimizerKernels.AdamWUpdate;

/**
 * AdamW (Loshchilov and Hutter, arXiv 1711.05101) after clipping the gradient to a global norm.
 *
 * @param beta1 β₁, decay of the first moment, in [0, 1)
 * @param beta2 β₂, decay of the second moment, in [0, 1)
 * @param epsilon ε, outside the root, finite and &gt; 0
 * @param weightDecay decoupled weight decay, finite and ≥ 0
 * @param clipNorm largest norm of the gradient, &gt; 0; infinite for no clipping
 */
public record AdamWConfig(
    double beta1, double beta2, double epsilon, double weightDecay, double clipNorm) {

  /** Added to the norm, as in PyTorch's {@code clip_grad_norm_}. */
  private static final double CLIP_EPSILON = 1e-6;

  /** Refuses values outside the ranges of the parameters. */
  public AdamWConfig {
    if (!(beta1 >= 0 && beta1 < 1)) {
      throw new IllegalArgumentException("beta1 must be in [0, 1), got " + beta1);
    }
    if (!(beta2 >= 0 && beta2 < 1)) {
      throw new IllegalArgumentException("beta2 must be in [0, 1), got " + beta2);
    }
    if (!(epsilon > 0 && Double.isFinite(epsilon))) {
      throw new IllegalArgumentException("epsilon must be finite and > 0, got " + epsilon);
    }
    if (!(weightDecay >= 0 && Double.isFinite(weightDecay))) {
      throw new IllegalArgumentException("weightDecay must be finite and >= 0, got " + weightDecay);
    }
    if (!(clipNorm > 0)) {
      throw new IllegalArgumentException("clipNorm must be > 0, got " + clipNorm);
    }
  }

  /**
   * The factor that clips a gradient: min(1, clipNorm/(norm + 10⁻⁶)).
   *
   * @param norm Euclidean norm of all gradients together, ≥ 0
   * @return the factor, in [0, 1]; 1 without clipping
   */
  public double gradientScale(double norm) {
    return clipNorm == Double.POSITIVE_INFINITY ? 1 : Math.min(1, clipNorm / (norm + CLIP_EPSILON));
  }

  /**
   * The numbers of one step.
   *
   * @param step training step, counted from 0
   * @param rate learning rate of the step
   * @param norm norm of the gradients before clipping
   * @return what the kernel needs
   */
  public AdamWUpdate update(long step, double rate, double norm) {
    return new AdamWUpdate(rate, beta1, beta2, epsilon, weightDecay, step + 1, gradientScale(norm));
  }
}
