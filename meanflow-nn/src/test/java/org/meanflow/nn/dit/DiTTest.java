package org.meanflow.nn.dit;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Arrays;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.meanflow.core.field.Derivative;
import org.meanflow.core.field.Tangent;
import org.meanflow.core.objective.IdentityResidual;
import org.meanflow.nn.NetworkField;
import org.meanflow.nn.TinyDiT;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.layer.PositionTable;
import org.nd4j.linalg.api.ndarray.INDArray;

class DiTTest {
  private static final int[] LABELS = {2, 0, 1};
  private static final double[] R = {0.25, 0, 0.5};
  private static final double[] T = {0.75, 0.875, 0.5};

  static Stream<Arguments> forms() {
    return Stream.of(TimeConditioning.values())
        .flatMap(times -> Stream.of(Norm.rms(), Norm.layer()).map(n -> Arguments.of(times, n)));
  }

  /** du/dt is the slope of u along (v, 0, 1), and its parts those along each argument. */
  @ParameterizedTest
  @MethodSource("forms")
  void derivativesAgreeWithDifferences(TimeConditioning times, Norm norm) {
    try (TinyDiT dit = new TinyDiT(TinyDiT.config(times, norm))) {
      INDArray z = TinyDiT.images(1, 3);
      INDArray v = dit.field.v(z, T, LABELS);
      double[] later = {0.875, 0.75, 0.625};
      assertSlope(dit, z, R, later, Tangent.along(v));
      assertSlope(dit, z, R, later, new Tangent(v, 0, 0));
      assertSlope(dit, z, new double[] {0.25, 0.5, 0.125}, later, new Tangent(v.mul(0), 1, 0));
    }
  }

  /**
   * Central differences with h = 1e-4: truncation h²|u‴|/6 and rounding ulp/h stay below 1e-6 of
   * the largest slope, as the third derivatives of this network are below 100 slopes.
   */
  private static void assertSlope(TinyDiT dit, INDArray z, double[] r, double[] t, Tangent d) {
    double h = 1e-4;
    INDArray above =
        dit.field.u(z.add(d.z().mul(h)), moved(r, h * d.r()), moved(t, h * d.t()), LABELS);
    INDArray below =
        dit.field.u(z.sub(d.z().mul(h)), moved(r, -h * d.r()), moved(t, -h * d.t()), LABELS);
    INDArray expected = above.sub(below).div(2 * h);
    INDArray actual = dit.field.derivative(z, r, t, LABELS, d).jvp();
    double scale = expected.amaxNumber().doubleValue();
    assertThat(scale).isPositive();
    double deviation = actual.sub(expected).amaxNumber().doubleValue() / scale;
    assertThat(deviation <= 1e-6).as("deviation %s", deviation).isTrue();
  }

  private static double[] moved(double[] times, double by) {
    return Arrays.stream(times).map(time -> time + by).toArray();
  }

  /** u = v where r = t; elsewhere a network that was never trained is not an average velocity. */
  @Test
  void identityResidual() {
    try (TinyDiT dit = new TinyDiT(TinyDiT.CONFIG)) {
      double[] residual = IdentityResidual.of(dit.field, TinyDiT.images(1, 3), R, T, LABELS);
      assertThat(residual).hasSize(3);
      assertThat(residual[0]).isFinite().isGreaterThan(1e-3);
      assertThat(residual[1]).isFinite().isGreaterThan(1e-3);
      assertThat(residual[2]).isLessThan(1e-12);
    }
  }

  @Test
  void startsAtZero() {
    DiT network = new DiT(TinyDiT.CONFIG);
    try (Engine engine = Engines.create("nd4j", Precision.FP64);
        ParameterStore store = ParameterStore.initialized(engine, network.parameters(), 3)) {
      NetworkField field = new NetworkField(network, store);
      Derivative derivative =
          field.derivative(TinyDiT.images(1, 3), R, T, LABELS, Tangent.along(TinyDiT.images(2, 3)));
      assertThat(derivative.u().amaxNumber().doubleValue()).isZero();
      assertThat(derivative.jvp().amaxNumber().doubleValue()).isZero();
      for (Parameter parameter : network.parameters().parameters()) {
        String name = parameter.name();
        double largest = store.read(parameter).amaxNumber().doubleValue();
        if (name.contains("adaLN") || name.startsWith("final_layer") || name.endsWith(".bias")) {
          assertThat(largest).as(name).isZero();
        } else {
          assertThat(largest).as(name).isPositive();
        }
      }
    }
  }

  @Test
  void namesAreThoseOfThePublicCode() {
    assertThat(new DiT(TinyDiT.CONFIG).parameters().parameters())
        .extracting(Parameter::name)
        .contains(
            "x_embedder.proj.weight",
            "t_embedder.mlp.0.weight",
            "r_embedder.mlp.2.bias",
            "y_embedder.embedding.weight",
            "pos_embed",
            "blocks.1.attn.qkv.weight",
            "blocks.1.attn.q_norm.weight",
            "blocks.0.mlp.fc1.bias",
            "blocks.0.adaLN_modulation.1.weight",
            "final_layer.linear.weight",
            "final_layer.adaLN_modulation.1.bias")
        .doesNotHaveDuplicates();
  }

  @Test
  void aNetworkWithoutClassesTakesNoLabels() {
    DiTConfig config =
        new DiTConfig(
            1,
            4,
            2,
            8,
            1,
            2,
            2,
            0,
            Norm.layer(),
            Norm.none(),
            1,
            TimeConditioning.H,
            PositionTable.FIXED,
            8);
    try (TinyDiT dit = new TinyDiT(config)) {
      INDArray z = TinyDiT.images(1, 3);
      assertThat(dit.field.u(z, R, T, null).shape()).isEqualTo(z.shape());
      assertThatThrownBy(() -> dit.field.u(z, R, T, LABELS))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("labels must be null for a network without classes");
    }
  }
}
