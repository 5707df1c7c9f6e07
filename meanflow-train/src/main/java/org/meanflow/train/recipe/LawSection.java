package org.meanflow.train.recipe;

import org.jspecify.annotations.Nullable;
import org.meanflow.core.time.LogitNormal;
import org.meanflow.core.time.TimeLaw;
import org.meanflow.core.time.Uniform;

/**
 * The section {@code flow.times.lawR}: a {@link TimeLaw} in keys and values.
 *
 * @param law which law
 * @param mean mean of the logit; only the logit-normal law looks at it, and needs it
 * @param std standard deviation of the logit; only the logit-normal law looks at it, and needs it
 */
public record LawSection(Kind law, @Nullable Double mean, @Nullable Double std) {

  /** The laws of a time. */
  public enum Kind {
    /** {@link LogitNormal}. */
    LOGIT_NORMAL,
    /** {@link Uniform}. */
    UNIFORM
  }

  /** Refuses what the law refuses. */
  public LawSection {
    timeLaw(law, mean, std);
  }

  /** {@return the law} */
  public TimeLaw timeLaw() {
    return timeLaw(law, mean, std);
  }

  static TimeLaw timeLaw(Kind law, @Nullable Double mean, @Nullable Double std) {
    return switch (law) {
      case LOGIT_NORMAL -> new LogitNormal(given("mean", mean), given("std", std));
      case UNIFORM -> new Uniform();
    };
  }

  private static double given(String field, @Nullable Double value) {
    if (value == null) {
      throw new IllegalArgumentException(
          field + " must be given for the law logit-normal, got nothing");
    }
    return value;
  }
}
