package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.all;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;

import jdk.incubator.vector.FloatVector;

/**
 * Softmax of rows of scores, P = 2^(c·S + shift)·inverse, its tangent and its cotangent. Rows are
 * whole vectors long; each is read while it is in the first-level cache, and what becomes a factor
 * of the next product is written in that product's type.
 */
final class SoftmaxRows {
  private SoftmaxRows() {}

  /**
   * P of a row of a query.
   *
   * @param s scores, overwritten
   * @param length floats of the row
   * @param tail what is added to the last vector: −∞ behind the row's end, 0 before it
   * @param c scale·log₂e
   * @param half whether the result is bfloat16
   * @param to the result; may be {@code s} if it is float32
   * @param shift where −c·max S goes
   * @param inverse where 1/Σ goes
   */
  static void probabilities(
      long s, int length, long tail, float c, boolean half, long to, long shift, long inverse) {
    int last = length - LANES;
    FloatVector most = load(s, last).add(load(tail));
    store(most, s, last);
    for (int i = 0; i < last; i += LANES) {
      most = Simd.larger(most, load(s, i));
    }
    float minus = -c * Simd.most(most);
    FloatVector m = all(minus);
    FloatVector factor = all(c);
    FloatVector sum = FloatVector.zero(Simd.FLOATS);
    for (int i = 0; i < length; i += LANES) {
      FloatVector e = Simd.exp2(load(s, i).fma(factor, m));
      sum = sum.add(e);
      store(e, s, i);
    }
    float one = 1 / Simd.sum(sum);
    FloatVector scale = all(one);
    for (int i = 0; i < length; i += LANES) {
      store(load(s, i).mul(scale), half, to, i);
    }
    Simd.set(shift, minus);
    Simd.set(inverse, one);
  }

  /**
   * From a row [Ṡ | S] of a query to [Ṗ | P], where Ṗ = scale·P ⊙ (Ṡ − Σ P ⊙ Ṡ).
   *
   * @param row twice {@code length} floats, overwritten
   * @param to the result; may be {@code row} if it is float32
   */
  static void tangents(
      long row,
      int length,
      long tail,
      float c,
      float scale,
      float shift,
      float inverse,
      boolean half,
      long to) {
    long s = row + (long) length * Float.BYTES;
    store(load(s, length - LANES).add(load(tail)), s, length - LANES);
    FloatVector factor = all(c);
    FloatVector m = all(shift);
    FloatVector one = all(inverse);
    FloatVector sum = FloatVector.zero(Simd.FLOATS);
    for (int i = 0; i < length; i += LANES) {
      FloatVector p = Simd.exp2(load(s, i).fma(factor, m)).mul(one);
      sum = p.fma(load(row, i), sum);
      store(p, s, i);
    }
    FloatVector mean = all(Simd.sum(sum));
    FloatVector scales = all(scale);
    for (int i = 0; i < length; i += LANES) {
      FloatVector p = load(s, i);
      store(p.mul(scales).mul(load(row, i).sub(mean)), half, to, i);
      store(p, half, to, length + i);
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
