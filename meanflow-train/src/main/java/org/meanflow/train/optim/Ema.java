package org.meanflow.train.optim;

/**
 * The exponential moving average of the parameters: after each step, average ← d·average + (1 −
 * d)·parameters.
 *
 * @param decay d, in [0, 1)
 * @param warmup whether d rises with the steps, min(decay, (1 + n)/(10 + n)) at step n, so that the
 *     average soon forgets the initial parameters
 */
public record Ema(double decay, boolean warmup) {

  /** Refuses a decay outside its range. */
  public Ema {
    if (!(decay >= 0 && decay < 1)) {
      throw new IllegalArgumentException("decay must be in [0, 1), got " + decay);
    }
  }

  /**
   * The decay after a step.
   *
   * @param step n, counted from 0
   * @return d, in [0, 1)
   */
  public double decayAt(long step) {
    if (step < 0) {
      throw new IllegalArgumentException("step must be >= 0, got " + step);
    }
    return warmup ? Math.min(decay, (1.0 + step) / (10.0 + step)) : decay;
  }
}
