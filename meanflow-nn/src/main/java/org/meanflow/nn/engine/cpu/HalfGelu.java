package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.all;

import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;

/**
 * GELU, tanh form, and its slope as polynomials, for bfloat16: a third of the instructions that an
 * exponential and a division take. Both are ½ plus an odd function, constant from some |x| on; the
 * polynomials are minimax under the condition that they meet that constant.
 */
final class HalfGelu {
  private static final FloatVector HALF = all(0.5f);
  private static final float VALUE_END = 4;
  private static final FloatVector VALUE_0 = all(0.39847863f);
  private static final FloatVector VALUE_1 = all(-0.06585217f);
  private static final FloatVector VALUE_2 = all(0.009508474f);
  private static final FloatVector VALUE_3 = all(-0.0010029181f);
  private static final FloatVector VALUE_4 = all(7.350412e-05f);
  private static final FloatVector VALUE_5 = all(-3.4932966e-06f);
  private static final FloatVector VALUE_6 = all(9.5671545e-08f);
  private static final FloatVector VALUE_7 = all(-1.1374858e-09f);
  private static final float SLOPE_END = 4.2f;
  private static final FloatVector SLOPE_0 = all(0.797206f);
  private static final FloatVector SLOPE_1 = all(-0.26481488f);
  private static final FloatVector SLOPE_2 = all(0.05860244f);
  private static final FloatVector SLOPE_3 = all(-0.008717745f);
  private static final FloatVector SLOPE_4 = all(0.000892404f);
  private static final FloatVector SLOPE_5 = all(-6.160952e-05f);
  private static final FloatVector SLOPE_6 = all(2.717124e-06f);
  private static final FloatVector SLOPE_7 = all(-6.866148e-08f);
  private static final FloatVector SLOPE_8 = all(7.5289963e-10f);

  private HalfGelu() {}

  /** x(½ + t·P(t²)) with t = x within ±4; to 8·10⁻⁵. NaN for NaN. */
  static FloatVector value(FloatVector x) {
    FloatVector t = within(x, VALUE_END);
    FloatVector square = t.mul(t);
    FloatVector p = square.fma(VALUE_7, VALUE_6);
    p = p.fma(square, VALUE_5);
    p = p.fma(square, VALUE_4);
    p = p.fma(square, VALUE_3);
    p = p.fma(square, VALUE_2);
    p = p.fma(square, VALUE_1);
    p = p.fma(square, VALUE_0);
    return x.mul(p.fma(t, HALF));
  }

  /** ½ + t·P(t²) with t = x within ±4.2; to 2·10⁻⁴. NaN for NaN. */
  static FloatVector slope(FloatVector x) {
    FloatVector t = within(x, SLOPE_END);
    FloatVector square = t.mul(t);
    FloatVector p = square.fma(SLOPE_8, SLOPE_7);
    p = p.fma(square, SLOPE_6);
    p = p.fma(square, SLOPE_5);
    p = p.fma(square, SLOPE_4);
    p = p.fma(square, SLOPE_3);
    p = p.fma(square, SLOPE_2);
    p = p.fma(square, SLOPE_1);
    p = p.fma(square, SLOPE_0);
    return p.fma(t, HALF);
  }

  private static FloatVector within(FloatVector x, float end) {
    FloatVector low = x.blend(-end, x.compare(VectorOperators.LT, -end));
    return low.blend(end, low.compare(VectorOperators.GT, end));
  }
}
