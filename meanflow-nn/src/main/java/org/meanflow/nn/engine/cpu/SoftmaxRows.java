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
   * P in place of S in rows of keys, and Σ P ⊙ P̄ of each query.
   *
   * @param s S, then P̄ from {@code keys} rows on
   * @param stride floats from row to row
   * @param length floats of a row that are used
   * @param shifts of the queries
   * @param inverses of the queries
   * @param means the sums, by query
   */
  static void ofKeys(
      long s, int keys, int stride, int length, float c, long shifts, long inverses, long means) {
    FloatVector factor = all(c);
    Simd.clear(means, length);
    for (int key = 0; key < keys; key++) {
      long p = s + (long) key * stride * Float.BYTES;
      long g = p + (long) keys * stride * Float.BYTES;
      for (int i = 0; i < length; i += LANES) {
        FloatVector e = Simd.exp2(load(p, i).fma(factor, load(shifts, i))).mul(load(inverses, i));
        store(e, p, i);
        store(e.fma(load(g, i), load(means, i)), means, i);
      }
    }
  }

  /**
   * S̄ = scale·P ⊙ (P̄ − mean) in rows of keys, and P as a factor.
   *
   * @param s P, then P̄ from {@code keys} rows on
   * @param to S̄, then P; may be {@code s} if it is float32
   */
  static void slopesOfKeys(
      long s, int keys, int stride, int length, float scale, long means, boolean half, long to) {
    FloatVector scales = all(scale);
    int second = keys * stride;
    for (int key = 0; key < keys; key++) {
      long skip = (long) key * stride;
      long p = s + skip * Float.BYTES;
      long result = to + skip * (half ? Short.BYTES : Float.BYTES);
      for (int i = 0; i < length; i += LANES) {
        FloatVector own = load(p, i);
        FloatVector slope = own.mul(scales).mul(load(p, second + i).sub(load(means, i)));
        store(slope, half, result, i);
        store(own, half, result, second + i);
      }
    }
  }
}
