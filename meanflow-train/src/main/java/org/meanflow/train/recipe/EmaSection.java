package org.meanflow.train.recipe;

import org.jspecify.annotations.Nullable;
import org.meanflow.train.optim.Ema;

/**
 * The section {@code ema}: the moving average of the parameters.
 *
 * @param decay decay of the average, in [0, 1)
 * @param warmup whether the decay rises with the steps; {@code null} for false
 */
public record EmaSection(double decay, @Nullable Boolean warmup) {

  /** Refuses what {@link Ema} refuses. */
  public EmaSection {
    new Ema(decay, false);
  }

  /** {@return the average} */
  public Ema average() {
    return new Ema(decay, warmup != null && warmup);
  }
}
