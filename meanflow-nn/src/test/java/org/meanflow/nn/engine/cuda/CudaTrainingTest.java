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

/** Training with the cuda engine follows training with the reference engine, in float64. */
class CudaTrainingTest {
  private static final int STEPS = 50;
  private static final double RATE = 3e-3;

  /**
   * Of the losses, relative. Rounding to float32 (6e-8) is amplified from step to step: measured
   * are 1.2e-6 here, and 7e-7 for the reference engine in float32.
   */
  private static final double TOLERANCE = 1e-5;

  @Test
  @Tag("cuda-emulated")
  void fiftyStepsOnTheEmulatedDeviceFollowTheReference() {
    followsTheReference(new CudaEngine(EmulatedDevice.cuda(), Precision.FP32, true));
  }

  @Test
  @Tag("cuda")
  void fiftyStepsOnThisGpuFollowTheReference() {
    EngineProvider provider = new CudaEngineProvider();
    String reason = provider.unavailableBecause();
    assumeTrue(reason == null, reason);
    followsTheReference(provider.create(Precision.FP32, 0));
  }

  private static void followsTheReference(Engine engine) {
    List<Double> expected = losses(Engines.create("nd4j", Precision.FP64), RATE);
    List<Double> actual = losses(engine, RATE);

    for (int i = 0; i < STEPS; i++) {
      assertThat(actual.get(i))
          .as("loss of step %d", i)
          .isCloseTo(expected.get(i), within(TOLERANCE * expected.get(i)));
    }
    // A training that stood still would be easy to follow.
    double untrained = losses(Engines.create("nd4j", Precision.FP64), 0).getLast();
    assertThat(expected.getLast()).isLessThan(0.98 * untrained);
  }

  private static List<Double> losses(Engine engine, double rate) {
    try (engine;
        TrainingRun run = new TrainingRun(engine, rate)) {
      return run.steps(STEPS);
    }
  }
}
