package org.meanflow.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.BrokenBarrierException;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.meanflow.core.objective.MeanFlowObjective;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.core.time.TimePairs;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.train.data.DataOrder;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.recipe.Recipe;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/** A batch in parts, one after the other or on several devices, is the batch as a whole. */
class AccumulationTest {
  /** float64; a gradient is a sum of some thousand terms of either sign, each good to 1e-16. */
  private static final double TOLERANCE = 1e-11;

  private static double[] gradients(Trainer trainer) {
    ParameterStore store = trainer.parameters();
    return store.engine().read(store.gradients()).data().asDouble();
  }

  private static void assertClose(double[] actual, double[] expected) {
    double scale = Arrays.stream(expected).map(Math::abs).max().orElseThrow();
    assertThat(scale).isPositive();
    for (int i = 0; i < expected.length; i++) {
      assertThat(Math.abs(actual[i] - expected[i]) <= TOLERANCE * scale)
          .as("element " + i)
          .isTrue();
    }
  }

  /** The whole batch at once, put together from what the parts draw; r ≠ t first, as it must be. */
  @ParameterizedTest
  @ValueSource(ints = {2, 3})
  void theGradientIsThatOfTheLargeBatch(int parts) throws IOException {
    Recipe recipe =
        TinyRun.recipe(
            "run.batch=12",
            "run.accumulate=" + parts,
            "flow.guidance.omega=2",
            "flow.guidance.startStep=0");
    int part = 12 / parts;
    try (Engine engine = Engines.create("nd4j", Precision.FP64);
        Trainer accumulating = TinyRun.trainer(engine, recipe, false);
        Trainer whole = TinyRun.trainer(engine, recipe, false)) {
      StepReport report = accumulating.step();

      ImageDataset data = new TinyRun.Greys(false);
      MeanFlowObjective objective = recipe.objective(0);
      DataOrder order = new DataOrder(1, data.size(), 12);
      ImageDataset.Batch batch = data.batch(order.indices(0), DataType.DOUBLE);
      List<INDArray> noise = new ArrayList<>();
      double[] r = new double[12];
      double[] t = new double[12];
      boolean[] dropped = new boolean[12];
      List<Integer> distinct = new ArrayList<>();
      List<Integer> equal = new ArrayList<>();
      for (int k = 0; k < parts; k++) {
        noise.add(
            new RandomStream(1, 0, k, Purpose.NOISE).normalArray(DataType.DOUBLE, part, 1, 8, 8));
        TimePairs pairs = objective.times().sample(part, new RandomStream(1, 0, k, Purpose.TIME));
        System.arraycopy(pairs.r(), 0, r, k * part, part);
        System.arraycopy(pairs.t(), 0, t, k * part, part);
        boolean[] lost =
            objective.guidance().drop(part, new RandomStream(1, 0, k, Purpose.LABEL_DROP));
        System.arraycopy(lost, 0, dropped, k * part, part);
        for (int i = 0; i < part; i++) {
          (i < pairs.distinct() ? distinct : equal).add(k * part + i);
        }
      }
      int count = distinct.size();
      distinct.addAll(equal);
      int[] rows = distinct.stream().mapToInt(Integer::intValue).toArray();
      INDArray allNoise = Nd4j.concat(0, noise.toArray(INDArray[]::new));
      double[] permutedR = Arrays.stream(rows).mapToDouble(i -> r[i]).toArray();
      double[] permutedT = Arrays.stream(rows).mapToDouble(i -> t[i]).toArray();
      boolean[] permutedDropped = new boolean[12];
      int[] labels = new int[12];
      for (int i = 0; i < 12; i++) {
        permutedDropped[i] = dropped[rows[i]];
        labels[i] = batch.labels()[rows[i]];
      }
      try (MeanFlowObjective.Result result =
          objective.evaluate(
              whole.field(),
              permuted(batch.x(), rows),
              permuted(allNoise, rows),
              new TimePairs(permutedR, permutedT, count),
              labels,
              permutedDropped)) {
        result.backward();
        assertThat(report.loss()).isCloseTo(result.loss().value(), within(TOLERANCE));
        assertThat(report.meanSquaredError())
            .isCloseTo(result.loss().meanSquaredError(), within(TOLERANCE));
      }
      assertClose(gradients(accumulating), gradients(whole));
    }
  }

  private static INDArray permuted(INDArray batch, int[] rows) {
    return Nd4j.pullRows(batch.reshape(rows.length, 64), 1, rows, 'c')
        .reshape(rows.length, 1, 8, 8);
  }

  /** Two devices, as two threads that meet in each average. */
  private static final class Pair {
    private final CyclicBarrier barrier = new CyclicBarrier(2);
    private final double[][] values = new double[2][];

    GradientReducer member(int rank) {
      return new GradientReducer() {
        @Override
        public int rank() {
          return rank;
        }

        @Override
        public int size() {
          return 2;
        }

        @Override
        public void average(double[] own) {
          values[rank] = own.clone();
          meet();
          for (int i = 0; i < own.length; i++) {
            own[i] = (values[0][i] + values[1][i]) / 2;
          }
          meet();
        }

        @Override
        public void average(Tensor gradients) {
          Engine engine = engines.get(rank);
          double[] own = engine.read(gradients).data().asDouble();
          average(own);
          engine.write(Nd4j.createFromArray(own), gradients);
        }
      };
    }

    private final List<Engine> engines = new ArrayList<>();

    private void meet() {
      try {
        barrier.await();
      } catch (InterruptedException | BrokenBarrierException e) {
        throw new IllegalStateException(e);
      }
    }
  }

  @Test
  void twoDevicesDoWhatOneDoesInTwoParts() throws Exception {
    Recipe recipe = TinyRun.recipe("run.batch=12");
    Pair pair = new Pair();
    try (Engine one = Engines.create("nd4j", Precision.FP64);
        Engine other = Engines.create("nd4j", Precision.FP64);
        Trainer alone = TinyRun.trainer(one, recipe.with(List.of("run.accumulate=2")), false);
        Trainer first = device(one, recipe, pair, 0);
        Trainer second = device(other, recipe, pair, 1);
        ExecutorService threads = Executors.newFixedThreadPool(2)) {
      StepReport expected = alone.step();
      Future<StepReport> reportOfFirst = threads.submit(first::step);
      Future<StepReport> reportOfSecond = threads.submit(second::step);
      assertThat(reportOfFirst.get().loss()).isCloseTo(expected.loss(), within(TOLERANCE));
      assertThat(reportOfSecond.get())
          .usingRecursiveComparison()
          .ignoringFields("dataWait") // of a device of its own
          .isEqualTo(reportOfFirst.get());
      assertClose(gradients(first), gradients(alone));
      assertThat(gradients(second)).isEqualTo(gradients(first));
      assertThat(other.read(second.parameters().values()).data().asDouble())
          .isEqualTo(one.read(first.parameters().values()).data().asDouble());
    }
  }

  private static Trainer device(Engine engine, Recipe recipe, Pair pair, int rank) {
    pair.engines.add(engine);
    return TinyRun.trainer(engine, recipe, new TinyRun.Greys(false), pair.member(rank));
  }

  @Test
  void aBatchThatCannotBeSplitIsRefused() throws IOException {
    Recipe recipe = TinyRun.recipe("run.batch=9", "run.accumulate=3");
    try (Engine engine = Engines.create("nd4j", Precision.FP64)) {
      GradientReducer two = new Pair().member(0);
      assertThatThrownBy(() -> TinyRun.trainer(engine, recipe, new TinyRun.Greys(false), two))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessageContaining("accumulate times the number of devices (6), got 9");
    }
  }
}
