package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.all;

import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;

/**
 * GELU, tanh form with a(x) = √(2/π)·(x + 0.044715x³), and its slope, for float32. Both by way of s
 * = σ(−2a(|x|)), so that what wants both computes that once.
 */
final class FloatGelu {
  private static final double K = 2 * Math.sqrt(2 / Math.PI);
  private static final double CUBIC = 0.044715;
  private static final FloatVector LOG = all((float) (K / Math.log(2)));
  private static final FloatVector LOG_CUBIC = all((float) (K / Math.log(2) * CUBIC));
  private static final FloatVector RATE = all((float) -K);
  private static final FloatVector RATE_CUBIC = all((float) (-3 * K * CUBIC));
  private static final FloatVector END = all(10f);

  private FloatGelu() {}

  /** GELU(x). */
  static FloatVector value(FloatVector x) {
    FloatVector size = size(x);
    return value(x, size, sigmoid(size));
  }

  /** GELU′(x). */
  static FloatVector slope(FloatVector x) {
    FloatVector size = size(x);
    return slope(x, size, sigmoid(size));
  }

  /** min(|x|, 10), beyond which a GELU is the identity or zero. */
  static FloatVector size(FloatVector x) {
    FloatVector size = x.abs();
    return size.blend(END, size.compare(VectorOperators.GT, END));
  }

  /** s = σ(−2a(|x|)). */
  static FloatVector sigmoid(FloatVector size) {
    FloatVector power = Simd.exp2(size.mul(size).fma(LOG_CUBIC, LOG).mul(size));
    return Simd.ONE.div(power.add(Simd.ONE));
  }

  /** ½x(1 + tanh a) = max(x, 0) − |x|s. */
  static FloatVector value(FloatVector x, FloatVector size, FloatVector s) {
    return x.reinterpretAsInts().max(0).reinterpretAsFloats().sub(size.mul(s));
  }

  /** s − s(1 − s)·|x|·(2a)′ for x &lt; 0, and one minus that for the others. */
  static FloatVector slope(FloatVector x, FloatVector size, FloatVector s) {
    FloatVector rate = size.mul(size).fma(RATE_CUBIC, RATE).mul(size);
    FloatVector slope = s.fma(Simd.ONE.sub(s).mul(rate), s);
    return slope.blend(Simd.ONE.sub(slope), x.compare(VectorOperators.GE, 0f));
  }
}
