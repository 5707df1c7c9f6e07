package org.meanflow.core.time;

/**
 * The time pairs of a batch, 0 ≤ r ≤ t ≤ 1, those that may differ first.
 *
 * <p>(t − r)·du/dt vanishes where r = t, so only the first {@code distinct} samples need a
 * derivative and the order makes them a contiguous block.
 *
 * @param r earlier times, one for each sample; not copied
 * @param t later times, one for each sample; not copied
 * @param distinct all samples from this index on have r = t exactly
 */
@SuppressWarnings("ArrayRecordComponent") // times are double[] everywhere; never compared
public record TimePairs(double[] r, double[] t, int distinct) {

  /** Refuses pairs that are out of order, out of range or not partitioned. */
  public TimePairs {
    if (r.length != t.length) {
      throw new IllegalArgumentException(
          "r must have as many times as t, %d, got %d".formatted(t.length, r.length));
    }
    if (distinct < 0 || distinct > t.length) {
      throw new IllegalArgumentException(
          "distinct must be in [0, %d], got %d".formatted(t.length, distinct));
    }
    for (int i = 0; i < t.length; i++) {
      if (!(r[i] >= 0 && r[i] <= t[i] && t[i] <= 1)) {
        throw new IllegalArgumentException(
            "r[%d], t[%d] must satisfy 0 <= r <= t <= 1, got %s, %s".formatted(i, i, r[i], t[i]));
      }
      if (i >= distinct && r[i] != t[i]) {
        throw new IllegalArgumentException(
            "r[%d] must equal t[%d] because distinct is %d, got %s, %s"
                .formatted(i, i, distinct, r[i], t[i]));
      }
    }
  }

  /** {@return how many pairs there are} */
  public int batch() {
    return t.length;
  }
}
