package org.meanflow.nn.engine.cpu;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.util.List;
import java.util.Random;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.FeedForwardKernels;
import org.meanflow.nn.engine.FeedForwardKernels.Gradients;
import org.meanflow.nn.engine.FeedForwardKernels.Weights;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.engine.nd4j.Nd4jEngine;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/**
 * Feed-forward networks as wide as those of images, which are computed tile by tile, in panels and
 * chunks, with gradients of weights block by block; the smaller ones are among the primitives.
 */
class CpuFeedForwardTest {

  private static INDArray normal(long seed, double scale, long... shape) {
    Random random = new Random(seed);
    double[] numbers = random.doubles(Tensor.size(shape), -scale, scale).toArray();
    return Nd4j.createFromArray(numbers).reshape(shape);
  }

  private static Tensor tensor(Engine engine, Storage storage, INDArray numbers) {
    Tensor tensor = engine.allocate(storage, numbers.shape());
    engine.write(numbers, tensor);
    return tensor;
  }

  /** Value, tangent of the first rows, and the cotangents of a backward pass after another one. */
  private static List<INDArray> everything(Engine engine, int rows, int in, int hidden, int out) {
    Weights w =
        new Weights(
            tensor(engine, Storage.FULL, normal(1, 0.1, hidden, in)),
            tensor(engine, Storage.FULL, normal(2, 1, hidden)),
            tensor(engine, Storage.FULL, normal(3, 0.1, out, hidden)),
            tensor(engine, Storage.FULL, normal(4, 1, out)));
    Tensor x = tensor(engine, Storage.COMPACT, normal(5, 1, rows, in));
    Tensor dx = tensor(engine, Storage.COMPACT, normal(6, 1, rows / 4, in));
    Tensor gy = tensor(engine, Storage.COMPACT, normal(7, 1, rows, out));
    Tensor y = engine.allocate(Storage.COMPACT, rows, out);
    Tensor dy = engine.allocate(Storage.COMPACT, rows / 4, out);
    Tensor gx = engine.allocate(Storage.COMPACT, rows, in);
    List<Tensor> gw =
        List.of(
            engine.allocate(hidden, in),
            engine.allocate(hidden),
            engine.allocate(out, hidden),
            engine.allocate(out));
    FeedForwardKernels kernels = engine.kernels().feedForward();
    for (boolean add : new boolean[] {false, true}) {
      try (Saved saved = kernels.feedForward(x, w, y, true)) {
        kernels.feedForwardTangent(w, saved, dx, dy);
        kernels.feedForwardBackward(
            x,
            w,
            saved,
            gy,
            new Cotangent(gx, add),
            new Gradients(
                new Cotangent(gw.get(0), add),
                new Cotangent(gw.get(1), add),
                new Cotangent(gw.get(2), add),
                new Cotangent(gw.get(3), add)));
      }
    }
    try (Saved saved = kernels.feedForward(x, w, y, true)) {
      kernels.feedForwardBackward(x, w, saved, gy, null, new Gradients(null, null, null, null));
    }
    Tensor unkept = engine.allocate(Storage.COMPACT, rows, out);
    kernels.feedForward(x, w, unkept, false).close();
    return List.of(
        engine.read(y),
        engine.read(unkept),
        engine.read(dy),
        engine.read(gx),
        engine.read(gw.get(0)),
        engine.read(gw.get(1)),
        engine.read(gw.get(2)),
        engine.read(gw.get(3)));
  }

  /**
   * Five blocks of rows of which the last is smaller, several pieces of every side; and sides that
   * are no multiples of anything.
   */
  @ParameterizedTest
  @CsvSource({
    "FP32, true, 1664, 416, 832, 416",
    "FP32, true, 1664, 448, 832, 448",
    "FP32, false, 1664, 416, 832, 416",
    "BF16, false, 1664, 416, 832, 416",
    "BF16, false, 1664, 448, 832, 448",
    "BF16, false, 1664, 800, 1600, 288",
    "FP32, true, 1664, 128, 512, 192",
    "FP32, false, 1000, 50, 499, 51",
    "BF16, false, 1000, 50, 499, 51"
  })
  void agreesWithFloat64(
      Precision precision, boolean split, int rows, int in, int hidden, int out) {
    CpuEngineProvider provider = new CpuEngineProvider();
    String reason = provider.unavailableBecause();
    assumeTrue(reason == null, reason);
    assumeTrue(provider.supports(precision), "no products of bfloat16 here");
    assumeTrue(!split || OneDnn.hasBf16(), "no products of bfloat16 here");
    List<INDArray> expected;
    try (Engine reference = new Nd4jEngine(Precision.FP64, 1)) {
      expected = everything(reference, rows, in, hidden, out);
    }
    List<INDArray> actual;
    try (Engine engine = new CpuEngine(precision, 2, split)) {
      actual = everything(engine, rows, in, hidden, out);
    }
    // 2⁻²⁴ and 2⁻⁹ of the largest number, times a factor for sums and results in between.
    double tolerance = precision == Precision.BF16 ? 1e-2 : 2e-6;
    for (int i = 0; i < expected.size(); i++) {
      INDArray right = expected.get(i).castTo(DataType.DOUBLE);
      INDArray wrong = actual.get(i).castTo(right.dataType()).sub(right);
      double error = wrong.amaxNumber().doubleValue() / right.amaxNumber().doubleValue();
      assertThat(error).as("result %d", i).isLessThan(tolerance);
    }
  }
}
