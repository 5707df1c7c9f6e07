package org.meanflow.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.io.IOException;
import java.util.Objects;
import org.junit.jupiter.api.Test;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.train.optim.Ema;
import org.nd4j.linalg.factory.Nd4j;

class MovingAverageTest {
  private static final double DECAY = 0.9999;
  private static final int STEPS = 5000;

  /** The parameters move from 1 to 1 + g and stay: after n steps the average is 1 + g(1 − dⁿ). */
  private static final double GAP = 1e-4;

  private static final double EXPECTED = GAP * (1 - Math.pow(DECAY, STEPS));

  @Test
  void aSmallStepIsNotLostToRounding() throws IOException {
    try (Engine engine = Engines.create("nd4j", Precision.FP32);
        Trainer trainer = TinyRun.trainer(engine, TinyRun.recipe(), false)) {
      ParameterStore parameters = trainer.parameters();
      Parameter parameter = parameters.layout().parameters().getFirst();
      fill(parameters, parameter, 1);
      try (MovingAverage average = new MovingAverage(new Ema(DECAY, false), parameters);
          Tensor plain = engine.allocate(parameters.layout().length())) {
        engine.kernels().elementwise().copy(parameters.values(), plain);
        fill(parameters, parameter, (float) (1 + GAP));
        double gap = (float) (1 + GAP) - 1.0; // as float32 has it
        for (int i = 0; i < STEPS; i++) {
          average.update(parameters, i);
          engine.kernels().optimizer().movingAverage(DECAY, parameters.values(), plain);
        }
        double high = average.values().read(parameter).getDouble(0) - 1;
        double low =
            engine.read(Objects.requireNonNull(average.remainder())).getDouble(parameter.offset());
        double expected = EXPECTED / GAP * gap;
        // 1 − d is rounded to float32 (6e-8 of it); each step rounds its own increment alone.
        assertThat(high + low).isCloseTo(expected, within(1e-6 * expected));
        double halfUnit = 0x1p-24; // of numbers in [1, 2)
        assertThat(high).isCloseTo(expected, within(halfUnit));

        // Why all this: (1 − d)·gap = 1e-8 is below half a unit, and the plain average is lost.
        double lost = engine.read(plain).getDouble(parameter.offset()) - 1;
        assertThat(Math.abs(lost - expected)).isGreaterThan(10 * halfUnit);
      }
    }
  }

  @Test
  void severalAveragesFollowTheirOwnDecay() throws IOException {
    try (Engine engine = Engines.create("nd4j", Precision.FP64);
        Trainer trainer =
            TinyRun.trainer(
                engine, TinyRun.recipe("ema={decay: [0.5, 0.9], warmup: false}"), false)) {
      double[] half = doubles(trainer.average());
      double[] slow = half.clone();
      for (int step = 0; step < 5; step++) {
        trainer.step();
        double[] values = doubles(trainer.parameters());
        for (int i = 0; i < values.length; i++) {
          half[i] = 0.5 * half[i] + 0.5 * values[i];
          slow[i] = 0.9 * slow[i] + (1 - 0.9) * values[i];
        }
      }
      double rounding = 1e-14; // of numbers up to about 1, in 5 steps
      assertThat(doubles(trainer.averages().get(0).values()))
          .containsExactly(half, within(rounding));
      assertThat(doubles(trainer.averages().get(1).values()))
          .containsExactly(slow, within(rounding));
      assertThat(half).isNotEqualTo(slow);
    }
  }

  private static double[] doubles(ParameterStore store) {
    return store.engine().read(store.values()).data().asDouble();
  }

  private static void fill(ParameterStore store, Parameter parameter, double value) {
    store.write(parameter, Nd4j.valueArrayOf(parameter.shape().clone(), value));
  }
}
