package org.meanflow.nn.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.util.List;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.meanflow.nn.TestEngines;
import org.meanflow.nn.engine.OptimizerKernels.AdamWUpdate;
import org.meanflow.nn.engine.OptimizerKernels.Average;
import org.nd4j.linalg.factory.Nd4j;

/** A moving average whose steps are smaller than the last place of the average. */
class CompensatedAverageTest {
  private static final double DECAY = 0.9999;
  private static final int STEPS = 5000;

  static List<TestEngines.TestEngine> engines() {
    return TestEngines.with(Precision.FP32);
  }

  /** The average begins at 1, the parameter stays at 1 + g: after n steps it is 1 + g(1 − dⁿ). */
  @ParameterizedTest
  @MethodSource("engines")
  void aSmallStepIsNotLostToRounding(TestEngines.TestEngine which) {
    float parameter = 1.0001f;
    double gap = parameter - 1.0;
    double expected = gap * (1 - Math.pow(DECAY, STEPS));
    try (Engine engine = which.create();
        Tensor p = engine.allocate(1000);
        Tensor zero = engine.allocate(1000);
        Tensor m = engine.allocate(1000);
        Tensor v = engine.allocate(1000);
        Tensor average = engine.allocate(1000);
        Tensor remainder = engine.allocate(1000);
        Tensor plain = engine.allocate(1000)) {
      for (Tensor each : List.of(zero, m, v, remainder)) {
        engine.kernels().elementwise().fill(each, 0);
      }
      engine.kernels().elementwise().fill(average, 1);
      engine.kernels().elementwise().fill(plain, 1);
      engine.write(Nd4j.valueArrayOf(new long[] {1000}, parameter), p);
      for (int step = 1; step <= STEPS; step++) {
        AdamWUpdate standStill = new AdamWUpdate(0, 0.9, 0.95, 1e-8, 0, step, 1);
        engine
            .kernels()
            .optimizer()
            .adamW(
                standStill,
                p,
                zero,
                m,
                v,
                new Average(DECAY, average, remainder),
                new Average(DECAY, plain));
      }
      double halfUnit = 0x1p-24; // of numbers in [1, 2)
      for (int i : new int[] {0, 501, 999}) {
        double high = engine.read(average).getDouble(i) - 1;
        double low = engine.read(remainder).getDouble(i);
        assertThat(high).isCloseTo(expected, within(halfUnit));
        // 1 − d is rounded to float32, 6e-8 of it, and so is each step's own increment.
        assertThat(high + low).isCloseTo(expected, within(1e-6 * expected));
        // Why all this: (1 − d)·g = 1e-8 is less than half a unit, and the plain average is lost.
        double lost = engine.read(plain).getDouble(i) - 1;
        assertThat(Math.abs(lost - expected)).isGreaterThan(10 * halfUnit);
      }
    }
  }
}
