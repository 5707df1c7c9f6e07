package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.all;

import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;

/** GELU, tanh form with a(x) = √(2/π)·(x + 0.044715x³), and its slope, for float32. */
final class FloatGelu {
  private static final double K = 2 * Math.sqrt(2 / Math.PI);
  private static final double CUBIC = 0.044715;
  private static final FloatVector LOG = all((float) (K / Math.log(2)));
  private static final FloatVector LOG_CUBIC = all((float) (K / Math.log(2) * CUBIC));
  private static final FloatVector RATE = all((float) -K);
  private static final FloatVector RATE_CUBIC = all((float) (-3 * K * CUBIC));
  private static final FloatVector END = all(10f);
  private static final FloatVector MINUS_ONE = all(-1f);

  private FloatGelu() {}

  /** ½x(1 + tanh a) = max(x, 0) − |x|/(1 + exp 2a(|x|)). */
  static FloatVector value(FloatVector x) {
    FloatVector size = size(x);
    FloatVector negative = size.div(MINUS_ONE.sub(power(size, size.mul(size))));
    return x.reinterpretAsInts().max(0).reinterpretAsFloats().add(negative);
  }

  /** min(|x|, 10), beyond which a GELU is the identity or zero. */
  private static FloatVector size(FloatVector x) {
    FloatVector size = x.abs();
    return size.blend(END, size.compare(VectorOperators.GT, END));
  }

  /** exp 2a(x) for 0 ≤ x ≤ 10. */
  private static FloatVector power(FloatVector x, FloatVector square) {
    return Simd.exp2(square.fma(LOG_CUBIC, LOG).mul(x));
  }

  /**
   * s + s(1 − s)·x·(2a)′ with s = σ(2a(x)): for x &lt; 0, and one minus that of −x for the others.
   */
  static FloatVector slope(FloatVector x) {
    FloatVector size = size(x);
    FloatVector square = size.mul(size);
    FloatVector s = Simd.ONE.div(power(size, square).add(Simd.ONE));
    FloatVector rate = square.fma(RATE_CUBIC, RATE).mul(size);
    FloatVector slope = s.fma(Simd.ONE.sub(s).mul(rate), s);
    return slope.blend(Simd.ONE.sub(slope), x.compare(VectorOperators.GE, 0f));
  }
}
