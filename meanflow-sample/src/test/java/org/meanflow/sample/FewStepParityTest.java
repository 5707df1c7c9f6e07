package org.meanflow.sample;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.meanflow.nn.TestEngines;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.fixtures.Fixture;
import org.meanflow.nn.parity.DiTFixture;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/** Samples of a network and the whole way to them, against PyTorch in float64. */
class FewStepParityTest {
  private static final Pattern OUTPUT = Pattern.compile("out\\.(nfe|euler|heun)([0-9]+)");
  private static final Pattern WEIGHTS = Pattern.compile("param\\.\\* of (.+)/(.+)\\.safetensors");

  /** Every sample of every case, in both precisions. */
  static Stream<Arguments> samples() {
    List<Arguments> samples = new ArrayList<>();
    for (Fixture fixture : Fixture.variants("few-step")) {
      List<String> outputs =
          fixture.names("out.").stream().filter(name -> !name.endsWith("_trajectory")).toList();
      assertThat(outputs).as("samples in %s", fixture).hasSizeGreaterThanOrEqualTo(3);
      for (String output : outputs) {
        for (TestEngines.TestEngine engine : TestEngines.all()) {
          samples.add(Arguments.of(fixture, output, engine.name(), engine.precision()));
        }
      }
    }
    return samples.stream();
  }

  @ParameterizedTest
  @MethodSource("samples")
  void samplesAndTrajectoriesMatch(
      Fixture fixture, String output, String engine, Precision precision) {
    try (DiTFixture dit = new DiTFixture(fixture, weightsOf(fixture), engine, precision)) {
      INDArray noise = dit.array("in.noise");
      INDArray untouched = noise.dup();
      List<INDArray> trajectory = new ArrayList<>();
      INDArray result =
          sampler(output)
              .sample(
                  dit.field(),
                  noise,
                  dit.labels("in.y"),
                  (step, t, z) -> {
                    assertThat(step).isEqualTo(trajectory.size());
                    trajectory.add(z.dup());
                  });
      dit.assertClose(output, result);
      if (fixture.has(output + "_trajectory")) {
        dit.assertClose(output + "_trajectory", Nd4j.stack(0, trajectory.toArray(new INDArray[0])));
      }
      assertThat(noise).isEqualTo(untouched);
    }
  }

  private static Sampler sampler(String output) {
    Matcher matcher = OUTPUT.matcher(output);
    assertThat(matcher.matches()).as("a sampler for %s", output).isTrue();
    TimeGrid times = TimeGrid.uniform(Integer.parseInt(matcher.group(2)));
    return switch (matcher.group(1)) {
      case "nfe" -> new MeanFlowSampler(times);
      case "euler" -> new EulerSampler(times);
      default -> new HeunSampler(times);
    };
  }

  private static Fixture weightsOf(Fixture fixture) {
    Matcher matcher = WEIGHTS.matcher(fixture.json().get("weights").textValue());
    assertThat(matcher.matches()).as("weights of %s", fixture).isTrue();
    return Fixture.of(matcher.group(1), matcher.group(2));
  }
}
