package org.meanflow.examples.bench;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;

class FlopsTest {

  /** By hand: one block of width 4 on 4 tokens of 4 values, MLP of 16, 2 times of 2 features. */
  @Test
  void countsBothFactorsOfEachProduct() {
    Flops flops = Flops.of(ProfileTest.model(1), 3);

    double tokens = 3 * 4 * 2 * (4 * 4 + 3 * 4 * 4 + 4 * 4 + 4 * 16 + 16 * 4 + 4 * 4);
    double samples = 3 * 2 * (6 * 4 * 4 + 2 * 4 * 4 + 2 * (2 * 4 + 4 * 4));
    assertThat(flops.linear()).isEqualTo(tokens + samples);
    assertThat(flops.attention()).isEqualTo(3 * 2 * (2.0 * 4 * 4 * 4));
    assertThat(flops.inputs()).isEqualTo(3 * 4 * 2 * (4 * 4) + 3 * 2 * 2 * (2.0 * 4));
  }

  /** What a PyTorch program that counts its own products says about the same networks. */
  @ParameterizedTest
  @CsvSource({"digits, 5.3400", "mnist-s2, 193.66", "latent-b4, 178.01"})
  void agreesWithAnotherImplementation(String name, double gigaflops) {
    BenchConfig config = BenchConfig.named(name);

    double forward = Flops.of(config.model(), config.batch()).forward() * 1e-9;

    assertThat(forward).isBetween(gigaflops * 0.9999, gigaflops * 1.0001); // five digits
  }

  /** The architecture and the arguments of the kernels tell the same, whatever is guided. */
  @ParameterizedTest
  @CsvSource({"false", "true"})
  void isWhatAStepExecutes(boolean guided) {
    BenchConfig config = new BenchConfig("tiny", 8, ProfileTest.model(2));
    Profile profile = new Profile();
    try (Engine engine = Engines.create("nd4j", Precision.FP32, 1);
        Workload step = new Workload.Step(config, profile.watch(engine), guided, profile)) {
      step.run();
    }

    assertThat(profile.sum(key -> true).flops())
        .isEqualTo(Flops.of(config.model(), 8).step(Workload.DISTINCT, guided));
  }
}
