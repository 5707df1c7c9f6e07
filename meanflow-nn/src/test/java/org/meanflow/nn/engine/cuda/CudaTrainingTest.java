package org.meanflow.nn.engine.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.EngineProvider;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;

/** Training with the cuda engine follows training with the other engines, from the same seeds. */
class CudaTrainingTest {
  private static final int STEPS = 50;
  private static final double RATE = 3e-3;

  /**
   * Of the losses, relative. Rounding to float32 (6e-8) is amplified from step to step: measured
   * are 1.5e-6 from the cpu engine, which rounds too, and 1.2e-6 from the reference engine in
   * float64, from which that is 7e-7 away in float32.
   */
  private static final double TOLERANCE = 1e-5;

  @Test
  @Tag("cuda-emulated")
  void fiftyStepsOnTheEmulatedDeviceFollowTheOtherEngines() {
    followsTheOthers(new CudaEngine(EmulatedDevice.cuda(), Precision.FP32, true, true));
  }

  @Test
  @Tag("cuda")
  void fiftyStepsOnThisGpuFollowTheOtherEngines() {
    EngineProvider provider = new CudaEngineProvider();
    String reason = provider.unavailableBecause();
    assumeTrue(reason == null, reason);
    followsTheOthers(provider.create(Precision.FP32, 0));
  }

  private static void followsTheOthers(Engine engine) {
    List<Double> actual = losses(engine, RATE);
    follows(actual, "cpu", Precision.FP32);
    follows(actual, "nd4j", Precision.FP64);
    // A training that stood still would be easy to follow.
    double untrained = losses(Engines.create("nd4j", Precision.FP64), 0).getLast();
    assertThat(actual.getLast()).isLessThan(0.98 * untrained);
  }

  private static void follows(List<Double> actual, String name, Precision precision) {
    List<Double> expected = losses(Engines.create(name, precision), RATE);
    double worst = 0;
    for (int i = 0; i < STEPS; i++) {
      worst = Math.max(worst, Math.abs(actual.get(i) / expected.get(i) - 1));
      assertThat(actual.get(i))
          .as("loss of step %d, by %s in %s", i, name, precision)
          .isCloseTo(expected.get(i), within(TOLERANCE * expected.get(i)));
    }
    System.out.printf("largest relative distance from %s %s: %.1e%n", name, precision, worst);
  }

  private static List<Double> losses(Engine engine, double rate) {
    try (engine;
        TrainingRun run = new TrainingRun(engine, rate)) {
      return run.steps(STEPS);
    }
  }
}
