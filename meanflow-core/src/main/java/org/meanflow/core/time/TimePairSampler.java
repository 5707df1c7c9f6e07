package org.meanflow.core.time;

import org.meanflow.core.random.RandomStream;

/**
 * Draws the time pairs (r, t) of a training batch (arXiv 2505.13447, section 4.3).
 *
 * <p>Public implementations call either of r = t and r ≠ t "the ratio"; here {@code fractionEqual}
 * is always the share of r = t.
 *
 * @param lawT law of the first draw, a
 * @param lawR law of the second draw, b
 * @param pairing how a and b become r ≤ t
 * @param fractionEqual share of samples with r = t, in [0, 1]; with 1 the training is flow matching
 * @param count whether that share holds exactly in each batch or on average
 */
public record TimePairSampler(
    TimeLaw lawT, TimeLaw lawR, Pairing pairing, double fractionEqual, EqualCount count) {

  /** Refuses a share outside [0, 1]. */
  public TimePairSampler {
    if (!(fractionEqual >= 0 && fractionEqual <= 1)) {
      throw new IllegalArgumentException("fractionEqual must be in [0, 1], got " + fractionEqual);
    }
  }

  /**
   * The paper's choice for ImageNet (arXiv 2505.13447): logit-normal(−0.4, 1), larger and smaller
   * of two draws, exactly 75 % of a batch with r = t.
   *
   * @return that sampler
   */
  public static TimePairSampler paper() {
    TimeLaw law = new LogitNormal(-0.4, 1);
    return new TimePairSampler(law, law, Pairing.MAX_MIN, 0.75, EqualCount.EXACT);
  }

  /**
   * Draws the pairs of a batch.
   *
   * @param batch number of pairs, &gt; 0
   * @param random where the randomness comes from
   * @return the pairs, those with r ≠ t first
   */
  public TimePairs sample(int batch, RandomStream random) {
    if (batch <= 0) {
      throw new IllegalArgumentException("batch must be > 0, got " + batch);
    }
    double[] a = new double[batch];
    double[] b = new double[batch];
    boolean[] equal = new boolean[batch];
    int exact = (int) (fractionEqual * batch);
    for (int i = 0; i < batch; i++) {
      a[i] = lawT.draw(random);
      b[i] = lawR.draw(random);
      equal[i] =
          switch (count) {
            case EXACT -> i < exact;
            case BERNOULLI -> random.nextUniform() < fractionEqual;
          };
    }
    return pair(a, b, equal);
  }

  /**
   * The pairs that belong to given draws: {@link #sample} without the randomness.
   *
   * @param a draws from the law of t, one for each sample
   * @param b draws from the law of r, one for each sample
   * @param equal which samples have r = t
   * @return the pairs; first the samples not chosen to be equal, then the others, each group in the
   *     order given. A pair that {@link Pairing#INDEPENDENT_THEN_MIN} makes equal stays in the
   *     first group, so that its size depends on {@code equal} alone.
   * @throws IllegalArgumentException if lengths differ or a draw is outside [0, 1]
   */
  public TimePairs pair(double[] a, double[] b, boolean[] equal) {
    if (b.length != a.length || equal.length != a.length) {
      throw new IllegalArgumentException(
          "a, b and equal must have the same length, got %d, %d, %d"
              .formatted(a.length, b.length, equal.length));
    }
    double[] r = new double[a.length];
    double[] t = new double[a.length];
    int row = 0;
    for (int i = 0; i < a.length; i++) {
      if (!equal[i]) {
        t[row] = later(a[i], b[i]);
        r[row++] = Math.min(a[i], b[i]);
      }
    }
    int distinct = row;
    for (int i = 0; i < a.length; i++) {
      if (equal[i]) {
        t[row] = later(a[i], b[i]);
        r[row] = t[row++];
      }
    }
    return new TimePairs(r, t, distinct);
  }

  private double later(double a, double b) {
    return switch (pairing) {
      case MAX_MIN -> Math.max(a, b);
      case INDEPENDENT_THEN_MIN -> a;
    };
  }
}
