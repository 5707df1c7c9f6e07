package org.meanflow.nn.parity;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.meanflow.core.field.Derivative;
import org.meanflow.core.field.Tangent;
import org.meanflow.core.objective.DroppedTarget;
import org.meanflow.core.objective.Guidance;
import org.meanflow.core.objective.Loss;
import org.meanflow.core.objective.MeanFlowObjective;
import org.meanflow.core.path.LinearPath;
import org.meanflow.core.time.TimePairSampler;
import org.meanflow.core.time.TimePairs;
import org.meanflow.nn.TestEngines;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.fixtures.Fixture;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/** The network, its derivatives, the objective and all gradients against PyTorch in float64. */
class DiTParityTest {

  static Stream<Arguments> networks() {
    return withEngines(Fixture.variants("dit-u-rms", "dit-u-ln"));
  }

  static Stream<Arguments> guided() {
    return withEngines(Fixture.variants("cfg"));
  }

  private static Stream<Arguments> withEngines(List<Fixture> fixtures) {
    return fixtures.stream()
        .flatMap(
            fixture ->
                TestEngines.all().stream()
                    .map(engine -> Arguments.of(fixture, engine.name(), engine.precision())));
  }

  @ParameterizedTest
  @MethodSource("networks")
  void objectiveAndGradients(Fixture fixture, String engine, Precision precision) {
    try (DiTFixture dit = new DiTFixture(fixture, fixture, engine, precision)) {
      MeanFlowObjective objective =
          new MeanFlowObjective(
              new LinearPath(), TimePairSampler.paper(), Guidance.none(), dit.loss());
      boolean[] dropped = new boolean[fixture.values("in.t").length];
      try (MeanFlowObjective.Result result =
          objective.evaluate(
              dit.field(),
              dit.array("in.x"),
              dit.array("in.e"),
              pairs(fixture),
              dit.labels("in.y"),
              dropped)) {
        dit.assertClose("out.u", result.pass().u());
        dit.assertClose("out.dudt", result.pass().jvp());
        dit.assertClose("out.u_tgt", result.target());
        assertLoss(dit, result.loss());
        result.backward();
        dit.assertGradientsClose();
      }
    }
  }

  @ParameterizedTest
  @MethodSource("networks")
  void partsOfTheJacobian(Fixture fixture, String engine, Precision precision) {
    try (DiTFixture dit = new DiTFixture(fixture, fixture, engine, precision)) {
      INDArray v = dit.array("in.v");
      INDArray zero = Nd4j.zerosLike(v);
      dit.assertClose("out.jvp_z", derivative(dit, fixture, new Tangent(v, 0, 0)).jvp());
      dit.assertClose("out.jvp_t", derivative(dit, fixture, new Tangent(zero, 0, 1)).jvp());
      dit.assertClose("out.jvp_r", derivative(dit, fixture, new Tangent(zero, 1, 0)).jvp());
      Derivative total = derivative(dit, fixture, Tangent.along(v));
      dit.assertClose("out.u", total.u());
      dit.assertClose("out.dudt", total.jvp());
      dit.assertClose(
          "out.u",
          dit.field()
              .u(
                  dit.array("in.z"),
                  fixture.values("in.r"),
                  fixture.values("in.t"),
                  dit.labels("in.y")));
    }
  }

  /**
   * A tangent over fewer samples gives the same numbers for these samples, and the same gradients.
   */
  @ParameterizedTest
  @MethodSource("networks")
  void tangentOfTheFirstSamplesOnly(Fixture fixture, String engine, Precision precision) {
    try (DiTFixture dit = new DiTFixture(fixture, fixture, engine, precision)) {
      INDArray v = dit.array("in.v");
      INDArray z = dit.array("in.z");
      double[] r = fixture.values("in.r");
      double[] t = fixture.values("in.t");
      int batch = t.length;
      INDArray expected =
          dit.field().derivative(z, r, t, dit.labels("in.y"), Tangent.along(v)).jvp();
      for (int m = 0; m < batch; m++) {
        long[] shape = v.shape().clone();
        shape[0] = m;
        INDArray first =
            m == 0
                ? Nd4j.create(v.dataType(), shape)
                : Nd4j.pullRows(
                        v.reshape(batch, v.length() / batch), 1, IntStream.range(0, m).toArray())
                    .reshape(shape);
        Derivative part = dit.field().derivative(z, r, t, dit.labels("in.y"), Tangent.along(first));
        dit.assertClose("out.u", part.u());
        assertThat(part.jvp().shape()).isEqualTo(shape);
        double[] actual =
            m == 0 ? new double[0] : Nd4j.toFlattened('c', part.jvp()).toDoubleVector();
        double[] all = Nd4j.toFlattened('c', expected).toDoubleVector();
        double scale = Arrays.stream(all).map(Math::abs).max().orElseThrow();
        double rounding = precision == Precision.FP64 ? 1e-12 : 1e-5;
        for (int i = 0; i < actual.length; i++) {
          assertThat(Math.abs(actual[i] - all[i]) <= rounding * scale).isTrue();
        }
      }
    }
  }

  @ParameterizedTest
  @MethodSource("guided")
  void guidance(Fixture fixture, String engine, Precision precision) {
    try (DiTFixture dit = new DiTFixture(fixture, fixture, engine, precision)) {
      double[] t = fixture.values("in.t");
      int[] labels = dit.labels("in.y");
      INDArray z = dit.array("in.z");
      dit.assertClose("out.v_uncond", dit.field().v(z, t, null));
      dit.assertClose("out.v_cond", dit.field().v(z, t, labels));

      JsonNode config = fixture.json().get("config").get("guidance");
      boolean guidedWhenDropped = fixture.toString().contains("guided-drop");
      Guidance guidance =
          new Guidance(
              config.get("omega").doubleValue(),
              config.get("kappa").doubleValue(),
              config.get("t_start").doubleValue(),
              config.get("t_end").doubleValue(),
              0.1,
              guidedWhenDropped ? DroppedTarget.GUIDED : DroppedTarget.VELOCITY);
      INDArray v = dit.array("in.v");
      dit.assertClose(
          "out.v_g", guidance.velocity(dit.field(), z, t, v, labels, new boolean[t.length]));

      int[] mask = fixture.integers("in.drop_mask");
      boolean[] dropped = new boolean[mask.length];
      for (int i = 0; i < mask.length; i++) {
        dropped[i] = mask[i] == 1;
      }
      assertThat(guidance.effectiveLabels(labels, dropped)).isEqualTo(dit.labels("out.y_input"));
      MeanFlowObjective objective =
          new MeanFlowObjective(new LinearPath(), TimePairSampler.paper(), guidance, dit.loss());
      try (MeanFlowObjective.Result result =
          objective.evaluate(
              dit.field(), dit.array("in.x"), dit.array("in.e"), pairs(fixture), labels, dropped)) {
        dit.assertClose("out.v_target", result.velocity());
        dit.assertClose("out.u", result.pass().u());
        dit.assertClose("out.dudt", result.pass().jvp());
        dit.assertClose("out.u_tgt", result.target());
        assertLoss(dit, result.loss());
        result.backward();
        dit.assertGradientsClose();
      }
    }
  }

  private static void assertLoss(DiTFixture dit, Loss loss) {
    dit.assertClose("out.sq_err", loss.squaredError());
    dit.assertClose("out.adaptive_weight", loss.weight());
    dit.assertClose("out.loss_per_sample", loss.perSample());
    dit.assertClose("out.loss", loss.value());
    dit.assertClose("out.mse", loss.meanSquaredError());
  }

  private static Derivative derivative(DiTFixture dit, Fixture fixture, Tangent tangent) {
    return dit.field()
        .derivative(
            dit.array("in.z"),
            fixture.values("in.r"),
            fixture.values("in.t"),
            dit.labels("in.y"),
            tangent);
  }

  /** The times in the order of the case, every sample with a tangent. */
  private static TimePairs pairs(Fixture fixture) {
    double[] t = fixture.values("in.t");
    return new TimePairs(fixture.values("in.r"), t, t.length);
  }
}
