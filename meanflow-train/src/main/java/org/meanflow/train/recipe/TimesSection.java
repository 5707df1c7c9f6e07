package org.meanflow.train.recipe;

import org.jspecify.annotations.Nullable;
import org.meanflow.core.time.EqualCount;
import org.meanflow.core.time.Pairing;
import org.meanflow.core.time.TimeLaw;
import org.meanflow.core.time.TimePairSampler;

/**
 * The section {@code flow.times}: a {@link TimePairSampler} in keys and values.
 *
 * @param law law of t and, without {@code lawR}, of r
 * @param mean mean of the logit; only the logit-normal law looks at it, and needs it
 * @param std standard deviation of the logit; only the logit-normal law looks at it, and needs it
 * @param pairing how two draws become r ≤ t
 * @param fractionEqual share of samples with r = t, in [0, 1]
 * @param count whether that share holds exactly in each batch or on average
 * @param lawR law of the second draw; {@code null} for the same as the first
 */
public record TimesSection(
    LawSection.Kind law,
    @Nullable Double mean,
    @Nullable Double std,
    Pairing pairing,
    double fractionEqual,
    EqualCount count,
    @Nullable LawSection lawR) {

  /** Refuses values outside the ranges of the parameters. */
  public TimesSection {
    sampler(law, mean, std, pairing, fractionEqual, count, lawR);
  }

  /** {@return the sampler of the pairs} */
  public TimePairSampler sampler() {
    return sampler(law, mean, std, pairing, fractionEqual, count, lawR);
  }

  private static TimePairSampler sampler(
      LawSection.Kind law,
      @Nullable Double mean,
      @Nullable Double std,
      Pairing pairing,
      double fractionEqual,
      EqualCount count,
      @Nullable LawSection lawR) {
    TimeLaw lawT = LawSection.timeLaw(law, mean, std);
    return new TimePairSampler(
        lawT, lawR == null ? lawT : lawR.timeLaw(), pairing, fractionEqual, count);
  }
}
