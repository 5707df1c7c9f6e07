package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.all;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;
import static org.meanflow.nn.engine.cpu.Simd.storeResult;

import jdk.incubator.vector.FloatVector;

/**
 * Rows of scores while they are in the first-level cache: softmax, P = 2^(c·S + shift)·inverse, its
 * tangent and its cotangent. What becomes a factor of the next product is written in that product's
 * type.
 *
 * @param scores address of the first row, float32
 * @param rows their number
 * @param stride floats from row to row
 * @param length floats of a row that are used, whole vectors
 * @param tail what is added to a row's last vector: −∞ behind the row's end, 0 before it
 * @param c scale·log₂e
 * @param scale of the scores
 * @param shifts of the queries
 * @param inverses of the queries
 * @param means work memory for a number of each query
 * @param half whether the result is bfloat16
 * @param to the result; may be {@code scores} if it is float32
 */
record SoftmaxRows(
    long scores,
    int rows,
    int stride,
    int length,
    long tail,
    float c,
    float scale,
    long shifts,
    long inverses,
    long means,
    boolean half,
    long to) {

  /** Floats that are worked on while they are in the first-level cache. */
  private static final int BLOCK = 4096;

  /** From rows S of queries to P/inverse; shifts and inverses are results. */
  static final Pass[] FORWARD = {
    SoftmaxRows::findShifts, SoftmaxRows::exponentials, SoftmaxRows::invert
  };

  /** From rows [Ṡ | S] of queries to [Ṗ | P], where Ṗ = scale·P ⊙ (Ṡ − Σ P ⊙ Ṡ). */
  static final Pass[] TANGENT = {SoftmaxRows::probabilities, SoftmaxRows::tangents};

  /**
   * From rows Sᵀ of keys, followed by as many rows P̄ᵀ, to S̄ᵀ and Pᵀ, where S̄ = scale·P ⊙ (P̄ − Σ
   * P ⊙ P̄).
   */
  static final Pass[] COTANGENT = {SoftmaxRows::probabilitiesOfKeys, SoftmaxRows::cotangentsOfKeys};

  /**
   * A loop over the rows. They are called where the compiler sees many of them, so that it does not
   * inline them into one: within so large a method it would put vectors on the heap.
   */
  @FunctionalInterface
  interface Pass {
    void over(SoftmaxRows rows);
  }

  void run(Pass[] passes) {
    for (Pass pass : passes) {
      pass.over(this);
    }
  }

  /** Runs passes over rows of queries, some at a time. */
  void runInBlocks(Pass[] passes) {
    int block = Math.max(1, BLOCK / stride);
    for (int row = 0; row < rows; row += block) {
      new SoftmaxRows(
              row(row),
              Math.min(block, rows - row),
              stride,
              length,
              tail,
              c,
              scale,
              shifts + (long) row * Float.BYTES,
              inverses + (long) row * Float.BYTES,
              means,
              half,
              result(row))
          .run(passes);
    }
  }

  private long row(int row) {
    return scores + (long) row * stride * Float.BYTES;
  }

  private long result(int row) {
    return to + (long) row * stride * (half ? Short.BYTES : Float.BYTES);
  }

  /** −c·max S of each row; −∞ is added behind the rows' ends. */
  private void findShifts() {
    FloatVector behind = load(tail);
    int last = length - LANES;
    for (int row = 0; row < rows; row++) {
      long s = row(row);
      FloatVector most = load(s, last).add(behind);
      store(most, s, last);
      for (int i = 0; i < last; i += LANES) {
        most = Simd.larger(most, load(s, i));
      }
      float shift = -c * Simd.largest(most);
      Simd.set(shifts, row, shift);
    }
  }

  /** 2^(c·S + shift), and Σ of each row in the place of its inverse. */
  private void exponentials() {
    FloatVector factor = all(c);
    for (int row = 0; row < rows; row++) {
      long s = row(row);
      long p = result(row);
      FloatVector shift = all(Simd.get(shifts, row));
      FloatVector sum = FloatVector.zero(Simd.FLOATS);
      for (int i = 0; i < length; i += LANES) {
        FloatVector e = Simd.exp2FromBelow(load(s, i).fma(factor, shift));
        sum = sum.add(e);
        storeResult(e, p, i, half);
      }
      Simd.set(inverses, row, Simd.sum(sum));
    }
  }

  private void invert() {
    for (int row = 0; row < rows; row++) {
      Simd.set(inverses, row, 1 / Simd.get(inverses, row));
    }
  }

  /** P in place of S, and Σ P ⊙ Ṡ of each row. */
  private void probabilities() {
    FloatVector factor = all(c);
    FloatVector behind = load(tail);
    for (int row = 0; row < rows; row++) {
      long d = row(row);
      long s = d + (long) length * Float.BYTES;
      store(load(s, length - LANES).add(behind), s, length - LANES);
      FloatVector shift = all(Simd.get(shifts, row));
      FloatVector inverse = all(Simd.get(inverses, row));
      FloatVector sum = FloatVector.zero(Simd.FLOATS);
      for (int i = 0; i < length; i += LANES) {
        FloatVector p = Simd.exp2FromBelow(load(s, i).fma(factor, shift)).mul(inverse);
        sum = p.fma(load(d, i), sum);
        store(p, s, i);
      }
      Simd.set(means, row, Simd.sum(sum));
    }
  }

  private void tangents() {
    FloatVector scales = all(scale);
    for (int row = 0; row < rows; row++) {
      long d = row(row);
      long y = result(row);
      FloatVector mean = all(Simd.get(means, row));
      for (int i = 0; i < length; i += LANES) {
        FloatVector p = load(d, length + i);
        storeResult(p.mul(scales).mul(load(d, i).sub(mean)), y, i, half);
        storeResult(p, y, length + i, half);
      }
    }
  }

  /** P in place of S, and Σ P ⊙ P̄ of each query. */
  private void probabilitiesOfKeys() {
    FloatVector factor = all(c);
    int second = rows * stride;
    Simd.clear(means, length);
    for (int row = 0; row < rows; row++) {
      long s = row(row);
      for (int i = 0; i < length; i += LANES) {
        FloatVector p =
            Simd.exp2FromBelow(load(s, i).fma(factor, load(shifts, i))).mul(load(inverses, i));
        store(p, s, i);
        store(p.fma(load(s, second + i), load(means, i)), means, i);
      }
    }
  }

  private void cotangentsOfKeys() {
    FloatVector scales = all(scale);
    int second = rows * stride;
    for (int row = 0; row < rows; row++) {
      long s = row(row);
      long y = result(row);
      for (int i = 0; i < length; i += LANES) {
        FloatVector p = load(s, i);
        FloatVector slope = p.mul(scales).mul(load(s, second + i).sub(load(means, i)));
        storeResult(slope, y, i, half);
        storeResult(p, y, second + i, half);
      }
    }
  }
}
