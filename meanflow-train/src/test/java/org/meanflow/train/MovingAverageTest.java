package org.meanflow.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.io.IOException;
import org.junit.jupiter.api.Test;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;

class MovingAverageTest {
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
}
