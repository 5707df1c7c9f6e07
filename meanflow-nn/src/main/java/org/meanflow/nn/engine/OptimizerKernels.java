package org.meanflow.nn.engine;

import org.jspecify.annotations.Nullable;

/** Passes over all parameters of a network, which lie in one flat buffer. */
public interface OptimizerKernels {

  /**
   * Σ x², accumulated in float64.
   *
   * @param x of any shape
   * @return the sum; NaN or infinite if an element is
   */
  double squaredNorm(Tensor x);

  /**
   * One step of AdamW (Loshchilov and Hutter, arXiv 1711.05101) and of exponential moving averages
   * of the new parameters: with g = gradientScale·gradient,
   *
   * <p>m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², p ← p − rate·decay·p − rate·m̂ / (√v̂ + ε), where m̂
   * = m/(1−β₁ⁿ), v̂ = v/(1−β₂ⁿ), and then average ← average + (1−decay)·(p − average) for each.
   *
   * @param update the numbers of this step
   * @param p parameters, changed
   * @param g their gradients, not changed
   * @param m first moments, changed
   * @param v second moments, changed
   * @param averages moving averages of the parameters, changed
   */
  void adamW(AdamWUpdate update, Tensor p, Tensor g, Tensor m, Tensor v, Average... averages);

  /**
   * A moving average, with a second tensor for what rounding takes from it, so that average +
   * remainder has about twice the digits. In float32 an average alone stands still as soon as
   * (1−decay)·|p − average| is below half a unit in its last place: with decay 0.9999, where p and
   * the average differ by less than 3·10⁻⁴ of their size.
   *
   * <p>With a remainder, y = remainder + (1−decay)·((p − average) − remainder), then average ←
   * average + y, and remainder ← what that sum lost of y (Dekker, Numer. Math. 18, 1971): y − (new
   * − old average), in this order of operations.
   *
   * @param decay in [0, 1]
   * @param average as many elements as the parameters
   * @param remainder as many elements, zero before the first step; {@code null} for none
   */
  record Average(double decay, Tensor average, @Nullable Tensor remainder) {

    /**
     * An average without a remainder.
     *
     * @param decay in [0, 1]
     * @param average as many elements as the parameters
     */
    public Average(double decay, Tensor average) {
      this(decay, average, null);
    }
  }

  /**
   * The numbers of one AdamW step.
   *
   * @param rate learning rate
   * @param beta1 β₁
   * @param beta2 β₂
   * @param epsilon ε, outside the root
   * @param weightDecay decoupled weight decay
   * @param step n, counted from 1
   * @param gradientScale factor on the gradients, from clipping
   */
  record AdamWUpdate(
      double rate,
      double beta1,
      double beta2,
      double epsilon,
      double weightDecay,
      long step,
      double gradientScale) {}
}
