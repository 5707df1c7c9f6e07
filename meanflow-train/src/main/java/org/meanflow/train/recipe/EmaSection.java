package org.meanflow.train.recipe;

import java.util.List;
import org.meanflow.train.optim.Ema;

/**
 * The section {@code ema}: the moving averages of the parameters.
 *
 * @param decay decay of each average, in [0, 1), all different; one number or a list. The first
 *     average is the one that previews show and samples are drawn from
 * @param warmup whether the decays rise with the steps
 */
public record EmaSection(List<Double> decay, @Default("false") boolean warmup) {

  /** Refuses what {@link Ema} refuses, an empty list, and a decay given twice. */
  public EmaSection {
    if (decay.isEmpty()) {
      throw new IllegalArgumentException("decay must have at least one value, got none");
    }
    if (decay.stream().distinct().count() < decay.size()) {
      throw new IllegalArgumentException("decay must have different values, got " + decay);
    }
    decay.forEach(each -> new Ema(each, false));
  }

  /** {@return the averages} */
  public List<Ema> averages() {
    return decay.stream().map(each -> new Ema(each, warmup)).toList();
  }
}
