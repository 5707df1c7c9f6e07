package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.all;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;

import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;

/**
 * Softmax of rows of scores, P = 2^(c·S + shift)·inverse, its tangent and its cotangent. Rows are
 * whole vectors long; each is read while it is in the first-level cache, and what becomes a factor
 * of the next product is written in that product's type.
 */
final class SoftmaxRows {
  private SoftmaxRows() {}

  /** −c·max S of each row; −∞ is added behind the rows' ends. */
  static void shifts(long s, int rows, int length, long tail, float c, long result) {
    FloatVector behind = load(tail);
    int last = length - LANES;
    for (int row = 0; row < rows; row++) {
      long scores = s + (long) row * length * Float.BYTES;
      FloatVector most = load(scores, last).add(behind);
      store(most, scores, last);
      for (int i = 0; i < last; i += LANES) {
        most = Simd.larger(most, load(scores, i));
      }
      Simd.set(result + (long) row * Float.BYTES, -c * most.reduceLanes(VectorOperators.MAX));
    }
  }

  /** 2^(c·S + shift) in place, and 1/Σ of each row. */
  static void exponentials(
      long s, int rows, int length, float c, long shifts, long inverses) {
    FloatVector factor = all(c);
    for (int row = 0; row < rows; row++) {
      long scores = s + (long) row * length * Float.BYTES;
      FloatVector shift = all(Simd.get(shifts + (long) row * Float.BYTES));
      FloatVector sum = FloatVector.zero(Simd.FLOATS);
      for (int i = 0; i < length; i += LANES) {
        FloatVector e = Simd.exp2(load(scores, i).fma(factor, shift));
        sum = sum.add(e);
        store(e, scores, i);
      }
      Simd.set(inverses + (long) row * Float.BYTES, 1 / Simd.sum(sum));
    }
  }

  /** Rows times their factors. */
  static void scaled(long s, int rows, int length, long factors, boolean half, long to) {
    for (int row = 0; row < rows; row++) {
      long skip = (long) row * length;
      FloatVector factor = all(Simd.get(factors + (long) row * Float.BYTES));
      for (int i = 0; i < length; i += LANES) {
        FloatVector p = load(s + skip * Float.BYTES, i).mul(factor);
        store(p, half, to + skip * (half ? Short.BYTES : Float.BYTES), i);
      }
    }
  }

  /** In rows [Ṡ | S] of queries, P in place of S, and Σ P ⊙ Ṡ of each. */
  static void probabilities(
      long rows, int count, int length, long tail, float c, long shifts, long inverses, long means) {
    FloatVector factor = all(c);
    FloatVector behind = load(tail);
    for (int row = 0; row < count; row++) {
      long d = rows + 2L * row * length * Float.BYTES;
      long s = d + (long) length * Float.BYTES;
      store(load(s, length - LANES).add(behind), s, length - LANES);
      FloatVector shift = all(Simd.get(shifts + (long) row * Float.BYTES));
      FloatVector inverse = all(Simd.get(inverses + (long) row * Float.BYTES));
      FloatVector sum = FloatVector.zero(Simd.FLOATS);
      for (int i = 0; i < length; i += LANES) {
        FloatVector p = Simd.exp2(load(s, i).fma(factor, shift)).mul(inverse);
        sum = p.fma(load(d, i), sum);
        store(p, s, i);
      }
      Simd.set(means + (long) row * Float.BYTES, Simd.sum(sum));
    }
  }

  /** [Ṗ | P] from rows [Ṡ | P] of queries, where Ṗ = scale·P ⊙ (Ṡ − mean). */
  static void tangents(
      long rows, int count, int length, float scale, long means, boolean half, long to) {
    FloatVector scales = all(scale);
    for (int row = 0; row < count; row++) {
      long skip = 2L * row * length;
      long d = rows + skip * Float.BYTES;
      long result = to + skip * (half ? Short.BYTES : Float.BYTES);
      FloatVector mean = all(Simd.get(means + (long) row * Float.BYTES));
      for (int i = 0; i < length; i += LANES) {
        FloatVector p = load(d, length + i);
        store(p.mul(scales).mul(load(d, i).sub(mean)), half, result, i);
        store(p, half, result, length + i);
      }
    }
  }

  /**
   * P of a row of a key in place of S, and the row's share of Σ P ⊙ P̄, query by query.
   *
   * @param g P̄
   * @param shifts of the queries
   * @param inverses of the queries
   * @param means the sums so far, by query
   */
  static void ofKey(long s, long g, int length, float c, long shifts, long inverses, long means) {
    FloatVector factor = all(c);
    for (int i = 0; i < length; i += LANES) {
      FloatVector p = Simd.exp2(load(s, i).fma(factor, load(shifts, i))).mul(load(inverses, i));
      store(p, s, i);
      store(p.fma(load(g, i), load(means, i)), means, i);
    }
  }

  /**
   * S̄ = scale·P ⊙ (P̄ − mean) of a row of a key, and P as a factor.
   *
   * @param p P
   * @param g P̄
   * @param toSlope S̄; may be {@code p} if it is float32
   * @param toP P; may be {@code g} if it is float32
   */
  static void slopesOfKey(
      long p, long g, int length, float scale, long means, boolean half, long toSlope, long toP) {
    FloatVector scales = all(scale);
    for (int i = 0; i < length; i += LANES) {
      FloatVector own = load(p, i);
      store(own.mul(scales).mul(load(g, i).sub(load(means, i))), half, toSlope, i);
      store(own, half, toP, i);
    }
  }
}
