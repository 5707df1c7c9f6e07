package org.meanflow.nn.engine.cpu;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.withinPercentage;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.util.List;
import java.util.Random;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.engine.nd4j.Nd4jEngine;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/**
 * Affine maps of few rows, as of the conditioning of a small batch, for which there are loops of
 * their own; of a row more than those take; and with sides that are no whole vectors.
 */
class CpuLinearTest {

  private static Tensor normal(Engine engine, long seed, long... shape) {
    Random random = new Random(seed);
    double[] numbers = random.doubles(Tensor.size(shape), -1, 1).toArray();
    Tensor tensor = engine.allocate(shape);
    engine.write(Nd4j.createFromArray(numbers).reshape(shape), tensor);
    return tensor;
  }

  /** Values of most rows, tangents of the others, and the cotangents of two backward passes. */
  private static List<INDArray> everything(Engine engine, int rows, int in, int out) {
    Tensor x = normal(engine, 1, rows, in);
    Tensor w = normal(engine, 2, out, in);
    Tensor b = normal(engine, 3, out);
    Tensor gy = normal(engine, 4, rows, out);
    Tensor y = engine.allocate(rows, out);
    Tensor plain = engine.allocate(rows, out);
    Tensor gx = engine.allocate(rows, in);
    Tensor gw = engine.allocate(out, in);
    Tensor gb = engine.allocate(out);
    engine.kernels().linear().linear(x, w, b, rows - rows / 4, y);
    engine.kernels().linear().linear(x, w, null, 0, plain);
    for (boolean add : new boolean[] {false, true}) {
      engine
          .kernels()
          .linear()
          .linearBackward(
              x, w, gy, new Cotangent(gx, add), new Cotangent(gw, add), new Cotangent(gb, add));
    }
    engine.kernels().linear().linearBackward(x, w, gy, null, null, null);
    return List.of(
        engine.read(y), engine.read(plain), engine.read(gx), engine.read(gw), engine.read(gb));
  }

  @ParameterizedTest
  @CsvSource({
    "1, 32, 1",
    "3, 64, 5",
    "4, 96, 33",
    "21, 64, 300",
    "32, 32, 513",
    "33, 32, 513",
    "5, 40, 70",
    "20, 768, 1000"
  })
  void agreesWithFloat64AndOnEveryNumberOfThreads(int rows, int in, int out) {
    String reason = new CpuEngineProvider().unavailableBecause();
    assumeTrue(reason == null, reason);
    List<INDArray> expected;
    try (Engine reference = new Nd4jEngine(Precision.FP64, 1)) {
      expected = everything(reference, rows, in, out);
    }
    for (Precision precision : new Precision[] {Precision.FP32, Precision.BF16}) {
      if (!new CpuEngineProvider().supports(precision)) {
        continue;
      }
      List<INDArray> one;
      List<INDArray> three;
      try (Engine engine = new CpuEngine(precision, 1);
          Engine other = new CpuEngine(precision, 3)) {
        one = everything(engine, rows, in, out);
        three = everything(other, rows, in, out);
      }
      // 2⁻²⁴ and 2⁻⁹ of the largest number, times a factor for sums.
      double tolerance = precision == Precision.BF16 ? 1e-2 : 2e-6;
      for (int i = 0; i < expected.size(); i++) {
        INDArray right = expected.get(i).castTo(DataType.DOUBLE);
        INDArray wrong = one.get(i).castTo(right.dataType()).sub(right);
        double error = wrong.amaxNumber().doubleValue() / right.amaxNumber().doubleValue();
        assertThat(error).as("%s, result %d", precision, i).isLessThan(tolerance);
        assertThat(three.get(i)).as("%s, result %d", precision, i).isEqualTo(one.get(i));
      }
    }
  }

  /** By all that computes gradients of weights: few rows, plain products, packed ones. */
  @ParameterizedTest
  @CsvSource({
    "20, 64, 301",
    "70, 33, 45",
    "130, 300, 270",
    "260, 384, 320",
    "1700, 832, 448",
    "1700, 448, 832"
  })
  void tellsTheSquaresOfGradients(int rows, int in, int out) {
    String reason = new CpuEngineProvider().unavailableBecause();
    assumeTrue(reason == null, reason);
    assertSquares(new CpuEngine(Precision.FP32, 2, false), rows, in, out);
    if (new CpuEngineProvider().supports(Precision.BF16)) {
      assertSquares(new CpuEngine(Precision.BF16, 2), rows, in, out);
      assertSquares(new CpuEngine(Precision.FP32, 2, true), rows, in, out);
    }
  }

  private static void assertSquares(Engine closed, int rows, int in, int out) {
    try (Engine engine = closed) {
      Tensor x = normal(engine, 1, rows, in);
      Tensor w = normal(engine, 2, out, in);
      Tensor gy = normal(engine, 4, rows, out);
      Tensor gw = engine.allocate(out, in);
      for (boolean add : new boolean[] {false, true}) {
        double[] told = {Double.NaN};
        Cotangent cotangent = new Cotangent(gw, add, sum -> told[0] = sum);
        engine.kernels().linear().linearBackward(x, w, gy, null, cotangent, null);
        INDArray written = engine.read(gw).castTo(DataType.DOUBLE);
        double expected = written.mul(written).sumNumber().doubleValue();
        assertThat(told[0]).isCloseTo(expected, withinPercentage(1e-4));
      }
    }
  }
}
