package org.meanflow.nn;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.meanflow.core.field.Derivative;
import org.meanflow.core.field.Tangent;
import org.meanflow.core.field.TrainableVelocity;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.dit.DiT;
import org.meanflow.nn.dit.DiTConfig;
import org.meanflow.nn.dit.TimeConditioning;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.nd4j.Nd4jEngine;
import org.meanflow.nn.layer.PositionTable;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/** Shards give what one evaluation of the whole batch gives. */
class DataParallelFieldTest {
  /** Sums of the same numbers in another order. */
  private static final double ROUNDING = 1e-12;

  private static final DiTConfig CONFIG =
      new DiTConfig(
          2,
          4,
          2,
          16,
          2,
          2,
          2,
          3,
          Norm.rms(),
          Norm.rms(),
          1,
          TimeConditioning.T_R,
          PositionTable.FIXED,
          8);

  private record Results(INDArray u, INDArray onlyU, INDArray jvp, INDArray gradients) {}

  @ParameterizedTest
  @CsvSource({"2, 6, 3", "3, 7, 2", "3, 7, 7", "2, 5, 0", "4, 2, 1", "2, 1, 1", "5, 5, 4"})
  void shardsAgreeWithTheWhole(int threads, int batch, int tangents) {
    Results whole = evaluate(1, batch, tangents);
    Results shards = evaluate(threads, batch, tangents);
    assertClose(shards.u, whole.u);
    assertClose(shards.onlyU, whole.u);
    assertClose(shards.gradients, whole.gradients);
    assertThat(shards.jvp.shape()).isEqualTo(whole.jvp.shape());
    if (tangents > 0) {
      assertClose(shards.jvp, whole.jvp);
    }
  }

  private static Results evaluate(int threads, int batch, int tangents) {
    DiT network = new DiT(CONFIG);
    try (Nd4jEngine engine = new Nd4jEngine(Precision.FP64, threads);
        ParameterStore parameters = new ParameterStore(engine, network.parameters())) {
      for (Parameter parameter : network.parameters().parameters()) {
        parameters.write(parameter, random((int) parameter.offset(), parameter.shape()).mul(0.3));
      }
      TrainableVelocity field = DataParallelField.of(network, parameters);
      assertThat(field.getClass())
          .isEqualTo(threads == 1 ? NetworkField.class : DataParallelField.class);
      INDArray z = random(-1, batch, 2, 4, 4);
      double[] r = new double[batch];
      double[] t = new double[batch];
      int[] labels = new int[batch];
      for (int i = 0; i < batch; i++) {
        t[i] = (i + 1.0) / (batch + 1);
        r[i] = i < tangents ? t[i] / 2 : t[i];
        labels[i] = i % 4 - 1;
      }
      Tangent tangent = Tangent.along(random(-2, tangents, 2, 4, 4));
      Derivative derivative = field.derivative(z, r, t, labels, tangent);
      try (TrainableVelocity.Pass pass = field.pass(z, r, t, labels, tangent)) {
        assertClose(derivative.u(), pass.u());
        assertThat(pass.firstNonFinite()).isNull();
        pass.backward(random(-3, batch, 2, 4, 4));
        assertThat(pass.firstNonFinite()).isNull();
        return new Results(
            pass.u(), field.u(z, r, t, labels), pass.jvp(), engine.read(parameters.gradients()));
      }
    }
  }

  @ParameterizedTest
  @CsvSource({"1", "2"})
  void badInputAndBrokenParametersAreReported(int threads) {
    DiT network = new DiT(CONFIG);
    try (Nd4jEngine engine = new Nd4jEngine(Precision.FP64, threads);
        ParameterStore parameters = ParameterStore.initialized(engine, network.parameters(), 1)) {
      TrainableVelocity field = DataParallelField.of(network, parameters);
      INDArray z = random(-1, 4, 2, 4, 4);
      double[] times = {0.1, 0.2, 0.3, 0.4};
      assertThatThrownBy(() -> field.u(z, times, times, new int[] {0, 1, 2, 7}))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessageContaining("7");
      assertThatThrownBy(() -> field.u(z, times, new double[3], null))
          .isInstanceOf(IllegalArgumentException.class);

      Parameter weight =
          network.parameters().parameters().stream()
              .filter(parameter -> parameter.name().equals("blocks.1.mlp.fc2.weight"))
              .findFirst()
              .orElseThrow();
      INDArray broken = parameters.read(weight);
      broken.putScalar(0, Double.NaN);
      parameters.write(weight, broken);
      Tangent tangent = Tangent.along(random(-2, 2, 2, 4, 4));
      try (TrainableVelocity.Pass pass = field.pass(z, times, times, null, tangent)) {
        assertThat(pass.firstNonFinite()).isEqualTo("blocks.1.mlp (FeedForward)");
      }
    }
  }

  private static INDArray random(int seed, long... shape) {
    return shape[0] == 0
        ? Nd4j.create(DataType.DOUBLE, shape)
        : new RandomStream(seed, 0, Purpose.NOISE).normalArray(DataType.DOUBLE, shape);
  }

  private static void assertClose(INDArray actual, INDArray expected) {
    assertThat(actual.shape()).isEqualTo(expected.shape());
    double scale = expected.amaxNumber().doubleValue();
    double deviation = actual.sub(expected).amaxNumber().doubleValue();
    assertThat(deviation <= ROUNDING * (1 + scale))
        .as("deviation %s at scale %s", deviation, scale)
        .isTrue();
  }
}
