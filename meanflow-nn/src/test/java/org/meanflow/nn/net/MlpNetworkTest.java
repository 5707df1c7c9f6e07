package org.meanflow.nn.net;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.util.Arrays;
import java.util.stream.Stream;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.meanflow.core.field.Tangent;
import org.meanflow.core.field.TrainableVelocity;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.nn.NetworkField;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;
import org.nd4j.linalg.indexing.INDArrayIndex;
import org.nd4j.linalg.indexing.NDArrayIndex;

/** The whole network against central differences, in float64. */
class MlpNetworkTest {
  private static final double STEP = 1e-5;

  /** Truncation h² ≈ 1e-10 and rounding ulp/h ≈ 1e-11, times factors of the third derivatives. */
  private static final double TOLERANCE = 1e-7;

  private static final double[] R = {0.1, 0.4, 0.6};
  private static final double[] T = {0.9, 0.5, 0.6};

  private static final MlpConfig PLAIN = new MlpConfig(2, 5, 2, 0, 3, 4);
  private static final MlpConfig LABELLED = new MlpConfig(3, 4, 1, 2, 1, 2);

  static Stream<MlpConfig> configs() {
    return Stream.of(PLAIN, LABELLED);
  }

  /** A network with random parameters, the head's too, and inputs. */
  private static final class Case implements AutoCloseable {
    private final Engine engine = Engines.create("nd4j", Precision.FP64);
    final ParameterStore store;
    final NetworkField field;
    final INDArray z;
    final int @Nullable [] labels;

    Case(MlpConfig config) {
      MlpNetwork network = new MlpNetwork(config);
      store = new ParameterStore(engine, network.parameters());
      field = new NetworkField(network, store);
      z = random(1, T.length, config.dimensions());
      labels = config.classes() > 0 ? new int[] {1, -1, 0} : null;
      move(random(2, store.layout().length()), 1);
    }

    /** θ ← θ + h·direction. */
    void move(INDArray direction, double h) {
      INDArray moved = engine.read(store.values()).add(direction.mul(h));
      engine.write(moved, store.values());
    }

    INDArray u() {
      return field.u(z, R, T, labels);
    }

    INDArray gradients() {
      return engine.read(store.gradients());
    }

    @Override
    public void close() {
      store.close();
      engine.close();
    }
  }

  @ParameterizedTest
  @MethodSource("configs")
  void gradientAgreesWithDifferences(MlpConfig config) {
    try (Case c = new Case(config)) {
      INDArray weights = random(3, c.z.shape());
      Tangent none = new Tangent(Nd4j.zeros(DataType.DOUBLE, c.z.shape()), 0, 0);
      try (TrainableVelocity.Pass pass = c.field.pass(c.z, R, T, c.labels, none)) {
        pass.backward(weights);
      }
      INDArray gradients = c.gradients();
      for (Parameter parameter : c.store.layout().parameters()) {
        INDArray direction = alone(parameter, random(4, c.store.layout().length()));
        c.move(direction, STEP);
        INDArray forth = c.u();
        c.move(direction, -2 * STEP);
        INDArray back = c.u();
        c.move(direction, STEP);
        double expected = dot(weights, forth.sub(back).div(2 * STEP));
        assertThat(dot(gradients, direction))
            .as(parameter.name())
            .isCloseTo(expected, within(TOLERANCE));
      }
    }
  }

  @ParameterizedTest
  @MethodSource("configs")
  void tangentAgreesWithDifferences(MlpConfig config) {
    try (Case c = new Case(config)) {
      INDArray dz = random(5, 2, config.dimensions());
      INDArray jvp = c.field.derivative(c.z, R, T, c.labels, new Tangent(dz, -0.3, 0.7)).jvp();

      INDArray difference = moved(c, dz, STEP).sub(moved(c, dz, -STEP)).div(2 * STEP);
      assertThat(jvp.shape()).isEqualTo(dz.shape());
      assertThat(jvp.dup('c').data().asDouble())
          .containsExactly(difference.dup('c').data().asDouble(), within(TOLERANCE));
    }
  }

  /** u of the first two samples, moved along (ż, ṙ, ṫ) = (dz, −0.3, 0.7). */
  private static INDArray moved(Case c, INDArray dz, double h) {
    double[] r = {R[0] - 0.3 * h, R[1] - 0.3 * h};
    double[] t = {T[0] + 0.7 * h, T[1] + 0.7 * h};
    int[] labels = c.labels == null ? null : new int[] {c.labels[0], c.labels[1]};
    INDArray z = c.z.get(NDArrayIndex.interval(0, 2)).add(dz.mul(h));
    return c.field.u(z, r, t, labels);
  }

  @Test
  void startsAtZeroAndNamesItsParameters() {
    MlpNetwork network = new MlpNetwork(LABELLED);
    assertThat(network.parameters().parameters())
        .extracting(Parameter::name)
        .filteredOn(name -> name.endsWith("weight"))
        .containsExactly(
            "z_embedder.weight",
            "t_embedder.weight",
            "h_embedder.weight",
            "y_embedder.embedding.weight",
            "layers.0.weight",
            "head.weight");
    try (Engine engine = Engines.create("nd4j", Precision.FP64);
        ParameterStore store = ParameterStore.initialized(engine, network.parameters(), 1)) {
      INDArray u = new NetworkField(network, store).u(random(1, 3, 3), R, T, null);
      assertThat(u.toDoubleMatrix()).isDeepEqualTo(new double[3][3]);
    }
  }

  @Test
  void inputsThatDoNotFitAreRefused() {
    try (Case c = new Case(PLAIN)) {
      assertThatThrownBy(() -> c.field.u(random(1, 3, 4), R, T, null))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("z must be [batch, 2], got [3, 4]");
      assertThatThrownBy(() -> c.field.u(c.z, R, T, new int[3]))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessageContaining("labels must be null");
    }
  }

  @Test
  void configsOutOfRangeAreRefused() {
    assertRefused("dimensions", () -> new MlpConfig(0, 5, 2, 0, 3, 4));
    assertRefused("width", () -> new MlpConfig(2, 0, 2, 0, 3, 4));
    assertRefused("depth", () -> new MlpConfig(2, 5, 0, 0, 3, 4));
    assertRefused("classes", () -> new MlpConfig(2, 5, 2, -1, 3, 4));
    assertRefused("timeScale", () -> new MlpConfig(2, 5, 2, 0, Double.NaN, 4));
    assertRefused("timeScale", () -> new MlpConfig(2, 5, 2, 0, 0, 4));
    assertRefused("timeFeatures", () -> new MlpConfig(2, 5, 2, 0, 3, 3));
    assertRefused("timeFeatures", () -> new MlpConfig(2, 5, 2, 0, 3, 0));
  }

  private static void assertRefused(String field, ThrowingCallable construction) {
    assertThatThrownBy(construction)
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageStartingWith("model." + field + " must be");
  }

  /** {@code values} with zeros outside the place of one parameter. */
  private static INDArray alone(Parameter parameter, INDArray values) {
    long size = Arrays.stream(parameter.shape()).reduce(1, Math::multiplyExact);
    INDArray alone = values.like();
    INDArrayIndex place = NDArrayIndex.interval(parameter.offset(), parameter.offset() + size);
    alone.get(place).assign(values.get(place));
    return alone;
  }

  private static INDArray random(long stream, long... shape) {
    return new RandomStream(7, stream, Purpose.NOISE).normalArray(DataType.DOUBLE, shape);
  }

  private static double dot(INDArray a, INDArray b) {
    return a.mul(b).sumNumber().doubleValue();
  }
}
