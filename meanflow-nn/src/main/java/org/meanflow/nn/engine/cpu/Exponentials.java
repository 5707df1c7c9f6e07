package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.ONE;
import static org.meanflow.nn.engine.cpu.Simd.all;

import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorOperators;

/** Exponentials of vectors, by polynomials. */
final class Exponentials {
  // Constant vectors: a broadcast within a loop costs the compiler much of what it may inline.
  private static final FloatVector LOG2_E = all((float) (1 / Math.log(2)));
  private static final float LN2_HIGH = 355f / 512;
  private static final float LN2_LOW = -2.1219444e-4f;

  /** 1.5·2²³: a float plus this has its nearest integer in its low bits. */
  private static final FloatVector ROUNDER = all(12582912f);

  private static final FloatVector P5 = all(1.3264727e-3f);
  private static final FloatVector P4 = all(9.671513e-3f);
  private static final FloatVector P3 = all(0.055507336f);
  private static final FloatVector P2 = all(2.4022242e-1f);
  private static final FloatVector P1 = all(0.693147f);

  private Exponentials() {}

  /**
   * eˣ to about 2 units in the last place; arguments below −60 give e⁻⁶⁰, above 88 e⁸⁸; NaN for
   * NaN. So no product with a probability is subnormal, which would cost a hundred cycles. The
   * polynomial is the minimax one of Cephes' expf.
   */
  static FloatVector exp(FloatVector argument) {
    FloatVector x = argument.min(88f).max(-60f);
    FloatVector shifted = x.fma(LOG2_E, ROUNDER);
    FloatVector n = shifted.sub(ROUNDER);
    FloatVector r = n.fma(all(-LN2_HIGH), x);
    r = n.fma(all(-LN2_LOW), r);
    FloatVector p = all(1.9875691e-4f);
    p = p.fma(r, all(1.3981999e-3f));
    p = p.fma(r, all(8.333452e-3f));
    p = p.fma(r, all(4.1665796e-2f));
    p = p.fma(r, all(1.6666666e-1f));
    p = p.fma(r, all(5.0e-1f));
    p = p.fma(r.mul(r), r).add(1f);
    IntVector power = shifted.reinterpretAsInts().lanewise(VectorOperators.LSHL, 23);
    return p.reinterpretAsInts().add(power).reinterpretAsFloats();
  }

  /** 2ˣ for −126 ≤ x ≤ 126, otherwise undefined; NaN for NaN. */
  static FloatVector exp2(FloatVector x) {
    FloatVector shifted = x.add(ROUNDER);
    return scaled(x.sub(shifted.sub(ROUNDER)), shifted);
  }

  /** 2ʳ·2ⁿ, |r| ≤ ½, where {@code shifted} is n + ROUNDER; the polynomial is minimax, to 2⁻²³. */
  private static FloatVector scaled(FloatVector r, FloatVector shifted) {
    // Pairs first: the chain of operations is what takes the time.
    FloatVector square = r.mul(r);
    FloatVector p = r.fma(P5, P4).fma(square, r.fma(P3, P2)).fma(square, r.fma(P1, ONE));
    IntVector power = shifted.reinterpretAsInts().lanewise(VectorOperators.LSHL, 23);
    return p.reinterpretAsInts().add(power).reinterpretAsFloats();
  }

  /**
   * 2ˣ for x ≤ 126; below −86 it is 2⁻⁸⁶, so that no product with a probability is subnormal; NaN
   * for NaN.
   */
  static FloatVector exp2FromBelow(FloatVector x) {
    return exp2(x.blend(-86f, x.compare(VectorOperators.LT, -86f)));
  }

  /** 1/(1 + e⁻ˣ). */
  static FloatVector sigmoid(FloatVector x) {
    return all(1f).div(exp(x.neg()).add(1f));
  }
}
