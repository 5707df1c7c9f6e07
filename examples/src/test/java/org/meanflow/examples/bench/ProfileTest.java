package org.meanflow.examples.bench;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.util.Arrays;
import java.util.List;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.meanflow.examples.bench.Profile.Key;
import org.meanflow.examples.bench.Profile.Phase;
import org.meanflow.nn.dit.DiTConfig;
import org.meanflow.nn.dit.TimeConditioning;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.layer.PositionTable;

class ProfileTest {

  /** Width 4, 4 tokens of 4 values, 3 classes. */
  static DiTConfig model(int depth) {
    return new DiTConfig(
        1,
        4,
        2,
        4,
        depth,
        2,
        4,
        3,
        Norm.rms(),
        Norm.rms(),
        1,
        TimeConditioning.T_R,
        PositionTable.FIXED,
        2);
  }

  @Test
  void everyRuleOfAStepHasItsRow() {
    Profile profile = new Profile();
    BenchConfig config = new BenchConfig("tiny", 8, model(2));
    long start = System.nanoTime();
    try (Engine engine = Engines.create("nd4j", Precision.FP32, 1);
        Workload step = new Workload.Step(config, profile.watch(engine), true, profile)) {
      profile.clear();
      start = System.nanoTime();
      profile.time("host", step::run);
    }
    double wall = (System.nanoTime() - start) * 1e-6;

    for (String primitive : List.of("Linear", "Attention", "NormModulate", "FeedForward")) {
      for (Phase phase : List.of(Phase.FORWARD, Phase.TANGENT, Phase.BACKWARD, Phase.EVALUATE)) {
        assertThat(profile.costs()).containsKey(new Key(primitive, phase));
      }
    }
    assertThat(profile.costs())
        .containsKeys(
            new Key("host", Phase.OTHER),
            new Key("tape", Phase.OTHER),
            new Key("adamW", Phase.OTHER),
            new Key("allocate", Phase.OTHER));
    assertThat(profile.costs().get(new Key("Attention", Phase.BACKWARD)).calls()).isEqualTo(2);
    // One thread: no moment is counted twice.
    assertThat(profile.sum(key -> true).milliseconds()).isPositive().isLessThanOrEqualTo(wall);
    assertThat(profile.costs().values()).allMatch(cost -> cost.milliseconds() >= 0);
  }

  /**
   * Of 8 samples 2 have a tangent: a product of values and tangents has 10, each with its share.
   */
  @Test
  void aStackedProductIsShared() {
    Profile profile = new Profile();
    BenchConfig config = new BenchConfig("tiny", 8, model(1));
    try (Engine engine = Engines.create("nd4j", Precision.FP32, 1);
        Workload step = new Workload.Step(config, profile.watch(engine), false, profile)) {
      step.run();
    }

    Profile.Cost value = profile.costs().get(new Key("Linear", Phase.FORWARD));
    Profile.Cost tangent = profile.costs().get(new Key("Linear", Phase.TANGENT));
    assertThat(tangent.flops() / value.flops()).isBetween(0.25 - 1e-12, 0.25 + 1e-12);
  }

  /** An engine that times its products tells them from what else its kernels do; others don't. */
  @ParameterizedTest
  @ValueSource(strings = {"cpu", "nd4j"})
  void productsArePartOfTheirKernels(String name) {
    assumeTrue(
        Engines.providers().stream()
            .filter(provider -> provider.name().equals(name))
            .allMatch(provider -> provider.unavailableBecause() == null),
        () -> "no engine " + name + " here");
    Profile profile = new Profile();
    BenchConfig config = new BenchConfig("tiny", 8, model(2));
    try (Engine engine = Engines.create(name, Precision.FP32, 1);
        Workload step = new Workload.Step(config, profile.watch(engine), false, profile)) {
      step.run();
    }

    Profile.Cost linear = profile.costs().get(new Key("Linear", Phase.BACKWARD));
    Profile.Cost gemm = profile.gemm();
    assertThat(gemm.flops()).isPositive();
    if (name.equals("cpu")) {
      assertThat(linear.products()).isPositive().isLessThan(linear.milliseconds());
      assertThat(profile.costs().get(new Key("adamW", Phase.OTHER)).products()).isZero();
      assertThat(gemm.milliseconds()).isEqualTo(profile.sum(key -> true).products());
    } else {
      assertThat(linear.products()).isNaN();
      assertThat(gemm.milliseconds()).isGreaterThan(linear.milliseconds());
    }
  }

  @Test
  void theTableNamesRulesAndAddsUp() {
    Profile profile = new Profile();
    profile.time("work", () -> profile.time("inner", () -> {}));

    List<String> lines = profile.table(1).lines().toList();

    assertThat(lines).hasSize(4);
    assertThat(Arrays.asList(lines.get(0).strip().split(" +")))
        .containsExactly("operation", "rule", "calls", "ms", "%", "products", "GFLOP/s", "GB/s");
    assertThat(
            lines.subList(1, 3).stream()
                .map(line -> line.split(" ")[0])
                .collect(Collectors.toSet()))
        .containsExactlyInAnyOrder("work", "inner");
    assertThat(lines.get(3)).startsWith("all").contains(" 100.0");
  }
}
