package org.meanflow.nn.engine.cpu;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import org.junit.jupiter.api.Test;

/** The polynomials against the definition (Hendrycks and Gimpel, arXiv 1606.08415), in float64. */
class HalfGeluTest {
  private static final double K = Math.sqrt(2 / Math.PI);
  private static final double CUBIC = 0.044715;

  private static double value(double x) {
    return 0.5 * x * (1 + Math.tanh(K * (x + CUBIC * x * x * x)));
  }

  private static double slope(double x) {
    double t = Math.tanh(K * (x + CUBIC * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * K * (1 + 3 * CUBIC * x * x);
  }

  @Test
  void differsFromTheDefinitionByLessThanStated() {
    for (float x = -30; x <= 30; x += 0x1p-9f) {
      double value = HalfGelu.value(Simd.all(x)).lane(0);
      double slope = HalfGelu.slope(Simd.all(x)).lane(0);
      assertThat(Math.abs(value - value(x)))
          .as("value at %s", x)
          .isLessThan(8e-5 + 4e-7 * Math.abs(x));
      assertThat(Math.abs(slope - slope(x))).as("slope at %s", x).isLessThan(2.1e-4);
    }
  }

  @Test
  void endsAreThoseOfTheDefinition() {
    for (float x : new float[] {100, 1e30f}) {
      assertThat(HalfGelu.value(Simd.all(x)).lane(0) / x).isEqualTo(1, within(1e-6f));
      assertThat(HalfGelu.slope(Simd.all(x)).lane(0)).isEqualTo(1, within(2.1e-4f));
    }
    assertThat(HalfGelu.value(Simd.all(-100f)).lane(0)).isBetween(-1e-4f, 1e-4f);
    assertThat(HalfGelu.value(Simd.all(Float.NaN)).lane(0)).isNaN();
    assertThat(HalfGelu.slope(Simd.all(Float.NaN)).lane(0)).isNaN();
  }
}
