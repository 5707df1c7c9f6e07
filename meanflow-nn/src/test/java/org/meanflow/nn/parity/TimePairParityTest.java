package org.meanflow.nn.parity;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.core.time.EqualCount;
import org.meanflow.core.time.LogitNormal;
import org.meanflow.core.time.Pairing;
import org.meanflow.core.time.TimeLaw;
import org.meanflow.core.time.TimePairSampler;
import org.meanflow.core.time.TimePairs;
import org.meanflow.core.time.Uniform;
import org.meanflow.nn.fixtures.Fixture;

/** Laws of the time pairs: given draws row by row, and the laws themselves by many draws. */
class TimePairParityTest {
  private static final int DRAWS = 200_000;

  /** The case says so in words. */
  private static final double TOLERANCE = 1e-12;

  /** The sampler that the parameters of a law in the reference describe. */
  private static TimePairSampler sampler(String name, JsonNode p) {
    switch (name) {
      case "v0", "v1" -> {
        return new TimePairSampler(
            new LogitNormal(number(p, "P_mean_t"), number(p, "P_std_t")),
            new LogitNormal(number(p, "P_mean_r"), number(p, "P_std_r")),
            name.equals("v0") ? Pairing.MAX_MIN : Pairing.INDEPENDENT_THEN_MIN,
            1 - number(p, "ratio"),
            EqualCount.BERNOULLI);
      }
      case "uniform-maxmin", "lognorm-maxmin", "lognorm-maxmin-none", "official-jax", "imf" -> {
        TimeLaw law =
            name.startsWith("uniform")
                ? new Uniform()
                : new LogitNormal(number(p, "P_mean"), number(p, "P_std"));
        double equal = number(p, p.has("flow_ratio") ? "flow_ratio" : "data_proportion");
        return new TimePairSampler(law, law, Pairing.MAX_MIN, equal, EqualCount.EXACT);
      }
      default -> throw new AssertionError("no sampler for " + name);
    }
  }

  private static double number(JsonNode parameters, String name) {
    assertThat(parameters.has(name)).as(name).isTrue();
    return parameters.get(name).doubleValue();
  }

  static Stream<Arguments> transforms() {
    List<Arguments> transforms = new ArrayList<>();
    for (Fixture fixture : Fixture.variants("samplers")) {
      for (Map.Entry<String, JsonNode> entry : fixture.json().get("config").properties()) {
        if (!entry.getKey().equals("guidance_scale")) { // not a law of times
          transforms.add(Arguments.of(entry.getKey(), entry.getValue(), fixture));
        }
      }
    }
    return transforms.stream();
  }

  @ParameterizedTest(name = "{0}")
  @MethodSource("transforms")
  void drawsBecomeTheSamePairs(String name, JsonNode parameters, Fixture fixture) {
    TimePairSampler sampler = sampler(name, parameters);
    int batch = fixture.values("in.uniform_a").length;
    double[] mask = fixture.values("in.uniform_mask");
    boolean[] equal = new boolean[batch];
    for (int i = 0; i < batch; i++) {
      equal[i] =
          switch (sampler.count()) {
            case EXACT -> i < (int) (sampler.fractionEqual() * batch);
            case BERNOULLI -> mask[i] < sampler.fractionEqual();
          };
    }
    TimePairs pairs =
        sampler.pair(
            draws(fixture, sampler.lawT(), "in.uniform_a", "in.normal_t"),
            draws(fixture, sampler.lawR(), "in.uniform_b", "in.normal_r"),
            equal);
    // Here the samples that are not chosen to be equal come first.
    int[] order =
        IntStream.concat(
                IntStream.range(0, batch).filter(i -> !equal[i]),
                IntStream.range(0, batch).filter(i -> equal[i]))
            .toArray();
    double[] t = new double[batch];
    double[] r = new double[batch];
    for (int i = 0; i < batch; i++) {
      t[order[i]] = pairs.t()[i];
      r[order[i]] = pairs.r()[i];
    }
    fixture.assertClose("out." + name + ".t", t, TOLERANCE);
    fixture.assertClose("out." + name + ".r", r, TOLERANCE);
  }

  private static double[] draws(Fixture fixture, TimeLaw law, String uniforms, String normals) {
    return switch (law) {
      case Uniform _ -> fixture.values(uniforms);
      case LogitNormal normal ->
          Arrays.stream(fixture.values(normals)).map(normal::fromNormal).toArray();
      default -> throw new AssertionError("no draws for " + law);
    };
  }

  private static JsonNode distributions() throws IOException {
    return new ObjectMapper()
        .readTree(Fixture.root().resolve("samplers/distributions.json").toFile());
  }

  static Stream<Arguments> joint() throws IOException {
    JsonNode laws = distributions().get("joint");
    assertThat(laws).as("laws").isNotEmpty();
    return laws.valueStream().map(law -> Arguments.of(law.get("name").textValue(), law));
  }

  /** Bounds of five standard deviations, as the case suggests. */
  @ParameterizedTest(name = "{0}")
  @MethodSource("joint")
  void manyDrawsHaveTheLaw(String name, JsonNode law) {
    TimePairSampler sampler = sampler(name, law.get("params"));
    TimePairs pairs = sampler.sample(DRAWS, new RandomStream(2505, 13447, Purpose.TIME));
    assertLaw(name + " t", pairs.t(), law.get("t"));
    assertLaw(name + " r", pairs.r(), law.get("r"));
    double[] gap =
        IntStream.range(0, DRAWS).mapToDouble(i -> pairs.t()[i] - pairs.r()[i]).toArray();
    assertLaw(name + " t-r", gap, law.get("gap_t_minus_r"));
    double p = law.get("p_r_equals_t").doubleValue();
    double equal = Arrays.stream(gap).filter(g -> g == 0).count() / (double) DRAWS;
    double bound = sampler.count() == EqualCount.EXACT ? 1.0 / DRAWS : deviations(p * (1 - p));
    assertThat(equal).as(name + " P(r = t)").isCloseTo(p, within(bound));
  }

  @Test
  void logitNormalLaw() throws IOException {
    JsonNode law = distributions().get("logit_normal_marginal");
    JsonNode parameters = law.get("params");
    LogitNormal normal = new LogitNormal(number(parameters, "P_mean"), number(parameters, "P_std"));
    RandomStream random = new RandomStream(2505, 13447, Purpose.TIME);
    double[] draws = IntStream.range(0, DRAWS).mapToDouble(i -> normal.draw(random)).toArray();
    assertLaw("logit-normal", draws, law);
  }

  private static void assertLaw(String name, double[] draws, JsonNode law) {
    double mean = Arrays.stream(draws).average().orElseThrow();
    double variance =
        Arrays.stream(draws).map(x -> (x - mean) * (x - mean)).average().orElseThrow();
    double expected = law.get("var").doubleValue();
    assertThat(mean)
        .as(name + " mean")
        .isCloseTo(law.get("mean").doubleValue(), within(deviations(expected)));
    assertThat(variance / expected).as(name + " variance").isCloseTo(1, within(deviations(3)));
    if (law.has("quantiles")) {
      for (Map.Entry<String, JsonNode> entry : law.get("quantiles").properties()) {
        double q = Double.parseDouble(entry.getKey());
        double quantile = entry.getValue().doubleValue();
        double below = Arrays.stream(draws).filter(x -> x <= quantile).count() / (double) DRAWS;
        assertThat(below)
            .as(name + " share below quantile " + q)
            .isCloseTo(q, within(deviations(q * (1 - q))));
      }
    }
  }

  /** Five standard deviations of the mean of all draws. */
  private static double deviations(double variance) {
    return 5 * Math.sqrt(variance / DRAWS);
  }
}
