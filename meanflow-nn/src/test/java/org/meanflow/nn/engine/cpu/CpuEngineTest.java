package org.meanflow.nn.engine.cpu;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.lang.management.ManagementFactory;
import java.util.Arrays;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIfSystemProperty;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.meanflow.core.field.Tangent;
import org.meanflow.core.field.TrainableVelocity;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.nn.NetworkField;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.dit.DiT;
import org.meanflow.nn.dit.DiTConfig;
import org.meanflow.nn.dit.TimeConditioning;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.layer.PositionTable;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/** What the cpu engine promises beyond the numbers that all engines are tested for. */
class CpuEngineTest {
  private static final int BATCH = 8;
  private static final int DISTINCT = 4;

  /** The network of the benchmark "digits". */
  private static final DiTConfig DIGITS =
      new DiTConfig(
          1,
          28,
          4,
          128,
          4,
          4,
          4,
          10,
          Norm.rms(),
          Norm.rms(),
          1,
          TimeConditioning.T_R,
          PositionTable.LEARNED,
          256);

  @BeforeEach
  void engineIsThere() {
    String reason = new CpuEngineProvider().unavailableBecause();
    assumeTrue(reason == null, reason);
  }

  /** u, its derivative and the gradients of one pass. */
  private record Numbers(double[] u, double[] jvp, double[] gradients) {}

  private static Numbers pass(Engine engine) {
    DiT network = new DiT(DIGITS);
    try (ParameterStore parameters = new ParameterStore(engine, network.parameters())) {
      int index = 0;
      for (Parameter parameter : network.parameters().parameters()) {
        INDArray values =
            new RandomStream(3, index++, Purpose.INITIALISATION)
                .normalArray(DataType.FLOAT, parameter.shape())
                .mul(0.02);
        boolean gain = parameter.name().endsWith("_norm.weight");
        parameters.write(parameter, gain ? values.add(1) : values);
      }
      return pass(new NetworkField(network, parameters), parameters);
    }
  }

  private static Numbers pass(TrainableVelocity field, ParameterStore parameters) {
    INDArray z = normal(1, BATCH);
    double[] t = IntStream.range(0, BATCH).mapToDouble(i -> 0.3 + 0.08 * i).toArray();
    double[] r = t.clone();
    Arrays.setAll(r, i -> i < DISTINCT ? t[i] / 2 : t[i]);
    int[] labels = IntStream.range(0, BATCH).toArray();
    parameters.clearGradients();
    try (TrainableVelocity.Pass pass =
        field.pass(z, r, t, labels, Tangent.along(normal(2, DISTINCT)))) {
      pass.backward(normal(3, BATCH));
      return new Numbers(
          doubles(pass.u()),
          doubles(pass.jvp()),
          doubles(parameters.engine().read(parameters.gradients())));
    }
  }

  private static INDArray normal(long step, long batch) {
    return new RandomStream(5, step, Purpose.NOISE).normalArray(DataType.FLOAT, batch, 1, 28, 28);
  }

  private static double[] doubles(INDArray array) {
    return Nd4j.toFlattened('c', array).toDoubleVector();
  }

  @Test
  void resultsDoNotDependOnTheNumberOfThreads() {
    try (CpuEngine one = new CpuEngine(Precision.FP32, 1);
        CpuEngine two = new CpuEngine(Precision.FP32, 2);
        CpuEngine five = new CpuEngine(Precision.FP32, 5)) {
      Numbers expected = pass(one);
      for (CpuEngine engine : new CpuEngine[] {one, two, five}) {
        Numbers actual = pass(engine);
        assertThat(actual.u).isEqualTo(expected.u);
        assertThat(actual.jvp).isEqualTo(expected.jvp);
        assertThat(actual.gradients).isEqualTo(expected.gradients);
      }
    }
  }

  @Test
  void bfloat16PointsWhereFloat32Points() {
    assumeTrue(
        new CpuEngineProvider().supports(Precision.BF16), "neither AVX-512-BF16 nor AMX here");
    try (CpuEngine full = new CpuEngine(Precision.FP32, 2);
        CpuEngine half = new CpuEngine(Precision.BF16, 2)) {
      Numbers expected = pass(full);
      Numbers actual = pass(half);
      assertThat(cosine(actual.u, expected.u)).isGreaterThanOrEqualTo(0.999);
      assertThat(cosine(actual.jvp, expected.jvp)).isGreaterThanOrEqualTo(0.999);
      assertThat(cosine(actual.gradients, expected.gradients)).isGreaterThanOrEqualTo(0.999);
      assertThat(actual.u).isNotEqualTo(expected.u); // it did round
    }
  }

  private static double cosine(double[] x, double[] y) {
    double xy = 0;
    double xx = 0;
    double yy = 0;
    for (int i = 0; i < x.length; i++) {
      xy += x[i] * y[i];
      xx += x[i] * x[i];
      yy += y[i] * y[i];
    }
    return xy / Math.sqrt(xx * yy);
  }

  @Test
  void aRepeatedPassTakesNoMemoryOfTheSystem() {
    try (CpuEngine engine = new CpuEngine(Precision.FP32, 2)) {
      DiT network = new DiT(DIGITS);
      try (ParameterStore parameters =
          ParameterStore.initialized(engine, network.parameters(), 1)) {
        NetworkField field = new NetworkField(network, parameters);
        // Which thread gets which work is open, so a thread may need its scratch memory late.
        int quiet = 0;
        for (int i = 0; i < 60 && quiet < 10; i++) {
          long allocations = engine.allocations();
          long bytes = engine.bytesHeld();
          pass(field, parameters);
          boolean same = engine.allocations() == allocations && engine.bytesHeld() == bytes;
          quiet = same ? quiet + 1 : 0;
        }
        assertThat(engine.allocations()).isPositive();
        assertThat(quiet).as("passes in a row without an allocation").isEqualTo(10);
      }
    }
  }

  /**
   * Steps and samples in turn, as of a training run: a vector that the compiler does not inline is
   * an object, and a step with one loop of such vectors leaves tens of megabytes behind, one
   * without only its arrays and results. To be run by itself: what other tests called before
   * influences what the compiler inlines.
   */
  @EnabledIfSystemProperty(
      named = "meanflow.allocations",
      matches = "true",
      disabledReason = "for a virtual machine of its own: -Dmeanflow.allocations=true")
  @ParameterizedTest
  @EnumSource(
      value = Precision.class,
      names = {"FP32", "BF16"})
  void vectorsAreNoObjectsOnceCompiled(Precision precision) {
    assumeTrue(new CpuEngineProvider().supports(precision), precision + " is not supported here");
    var thread = (com.sun.management.ThreadMXBean) ManagementFactory.getThreadMXBean();
    DiT network = new DiT(DIGITS);
    try (CpuEngine engine = new CpuEngine(precision, 1);
        ParameterStore parameters = ParameterStore.initialized(engine, network.parameters(), 1)) {
      NetworkField field = new NetworkField(network, parameters);
      INDArray z = normal(1, BATCH);
      INDArray cotangent = normal(3, BATCH);
      Tangent tangent = Tangent.along(normal(2, DISTINCT));
      double[] t = IntStream.range(0, BATCH).mapToDouble(i -> 0.3 + 0.08 * i).toArray();
      double[] r = t.clone();
      Arrays.setAll(r, i -> i < DISTINCT ? t[i] / 2 : t[i]);
      long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
      int small = 0;
      long bytes = 0;
      while (small < 50 && System.nanoTime() < deadline) {
        long before = thread.getCurrentThreadAllocatedBytes();
        parameters.clearGradients();
        try (TrainableVelocity.Pass pass = field.pass(z, r, t, null, tangent)) {
          pass.backward(cotangent);
        }
        assertThat(parameters.squaredGradientNorm()).isFinite();
        field.v(z, t, null);
        bytes = thread.getCurrentThreadAllocatedBytes() - before;
        small = bytes < 4 << 20 ? small + 1 : 0;
      }
      assertThat(small)
          .as("steps of less than 4 MiB in a row; the last took %d", bytes)
          .isEqualTo(50);
    }
  }
}
