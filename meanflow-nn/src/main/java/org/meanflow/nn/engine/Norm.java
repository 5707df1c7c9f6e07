package org.meanflow.nn.engine;

/**
 * A normalisation of the last dimension, without gain.
 *
 * @param kind what is normalised
 * @param epsilon added inside the square root; ignored by {@link Kind#NONE}
 */
public record Norm(Kind kind, double epsilon) {

  /** The kinds of normalisation. */
  public enum Kind {
    /** y = x / √(mean(x²) + ε). */
    RMS,
    /** y = (x − mean(x)) / √(var(x) + ε), with the biased variance. */
    LAYER,
    /** y = x. */
    NONE
  }

  /** Checks ε. */
  public Norm {
    if (!(epsilon >= 0 && epsilon < 1)) {
      throw new IllegalArgumentException("norm.epsilon must be in [0, 1), got " + epsilon);
    }
  }

  /** {@return RMS norm with ε = 2⁻²³, what PyTorch uses for float32 by default} */
  public static Norm rms() {
    return new Norm(Kind.RMS, 0x1p-23);
  }

  /** {@return layer norm with ε = 10⁻⁶, what DiT uses} */
  public static Norm layer() {
    return new Norm(Kind.LAYER, 1e-6);
  }

  /** {@return no normalisation} */
  public static Norm none() {
    return new Norm(Kind.NONE, 0);
  }
}
