package org.meanflow.core.objective;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.meanflow.core.Closeness.assertClose;
import static org.meanflow.core.Closeness.values;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

class AdaptiveLossTest {

  /** By hand: ‖Δ‖² = 25 and 0, D = 2, w = 1/√(s + 0.25). */
  @Test
  void isTheFormulaOnSmallNumbers() {
    INDArray u = Nd4j.createFromArray(new double[][] {{3, 0}, {1, 2}});
    INDArray target = Nd4j.createFromArray(new double[][] {{0, -4}, {1, 2}});

    Loss sum = new AdaptiveLoss(0.5, 0.25, Reduction.SUM).of(u, target);
    double w = 1 / Math.sqrt(25.25);
    assertClose(sum.squaredError(), new double[] {25, 0}, 0);
    assertClose(sum.weight(), new double[] {w, 2}, 1e-15);
    assertClose(sum.perSample(), new double[] {25 * w, 0}, 1e-14);
    assertClose(sum.value(), 25 * w / 2, 1e-14);
    assertClose(sum.meanSquaredError(), 6.25, 0);
    assertClose(values(sum.cotangent()), new double[] {3 * w, 4 * w, 0, 0}, 1e-15);

    Loss mean = new AdaptiveLoss(0.5, 0.25, Reduction.MEAN).of(u, target);
    double wMean = 1 / Math.sqrt(12.75);
    assertClose(mean.squaredError(), new double[] {12.5, 0}, 0);
    assertClose(mean.value(), 12.5 * wMean / 2, 1e-14);
    assertClose(mean.meanSquaredError(), 6.25, 0);
    assertClose(values(mean.cotangent()), new double[] {1.5 * wMean, 2 * wMean, 0, 0}, 1e-15);
  }

  /**
   * At constant w the loss is quadratic in u, so central differences have no truncation error; the
   * rounding is 2⁻⁵³·|loss|/h ≈ 1e-15/1e-3.
   */
  @ParameterizedTest
  @CsvSource({"SUM, 0", "SUM, 0.75", "SUM, 1", "MEAN, 0.5", "MEAN, 1"})
  void cotangentIsTheDerivativeAtConstantWeight(Reduction reduction, double p) {
    INDArray u = noise(DataType.DOUBLE, 0, 3, 2, 2, 2);
    INDArray target = noise(DataType.DOUBLE, 1, 3, 2, 2, 2);
    AdaptiveLoss adaptive = new AdaptiveLoss(p, 0.01, reduction);
    Loss loss = adaptive.of(u, target);
    double[] cotangent = values(loss.cotangent());
    double h = 1e-3;
    for (int i = 0; i < u.length(); i++) {
      INDArray after = u.dup();
      INDArray before = u.dup();
      after.data().put(i, u.data().getDouble(i) + h);
      before.data().put(i, u.data().getDouble(i) - h);
      double difference =
          weighted(adaptive.of(after, target), loss) - weighted(adaptive.of(before, target), loss);
      assertClose(cotangent[i], difference / (2 * h), 1e-10);
    }
  }

  /** Δ rounds to float32 once, 2⁻²⁴ relative; the sums do not add to that. */
  @Test
  void singlePrecisionAgreesWithDouble() {
    AdaptiveLoss adaptive = new AdaptiveLoss(1, 0.01, Reduction.SUM);
    INDArray u = noise(DataType.FLOAT, 0, 4, 3, 32, 32);
    INDArray target = noise(DataType.FLOAT, 1, 4, 3, 32, 32);
    Loss single = adaptive.of(u, target);
    Loss exact = adaptive.of(u.castTo(DataType.DOUBLE), target.castTo(DataType.DOUBLE));
    assertThat(single.cotangent().dataType()).isEqualTo(DataType.FLOAT);
    for (int i = 0; i < 4; i++) {
      assertClose(single.squaredError()[i] / exact.squaredError()[i], 1, 1e-7);
    }
    assertClose(single.value(), exact.value(), 1e-7);
    double scale = exact.cotangent().amaxNumber().doubleValue();
    assertClose(single.cotangent().castTo(DataType.DOUBLE), exact.cotangent(), 3e-7 * scale);
  }

  @ParameterizedTest
  @EnumSource(Reduction.class)
  void powerZeroIsTheMeanSquaredError(Reduction reduction) {
    INDArray u = noise(DataType.DOUBLE, 0, 3, 5);
    INDArray target = noise(DataType.DOUBLE, 1, 3, 5);
    Loss loss = new AdaptiveLoss(0, 1, reduction).of(u, target);
    double perElement = reduction == Reduction.MEAN ? 1 : 5;
    assertClose(loss.value(), loss.meanSquaredError() * perElement, 1e-13);
    assertClose(loss.meanSquaredError(), u.squaredDistance(target) / 15, 1e-13);
  }

  @Test
  void argumentsStayAsTheyAre() {
    INDArray u = noise(DataType.DOUBLE, 0, 3, 5);
    INDArray target = noise(DataType.DOUBLE, 1, 3, 5);
    double[] uBefore = values(u);
    double[] targetBefore = values(target);
    new AdaptiveLoss(1, 0.01, Reduction.SUM).of(u, target);
    assertClose(values(u), uBefore, 0);
    assertClose(values(target), targetBefore, 0);
  }

  @Test
  void acceptsOneNumberForEachSample() {
    INDArray u = Nd4j.createFromArray(2.0, 0.0);
    Loss loss = new AdaptiveLoss(0, 1, Reduction.SUM).of(u, Nd4j.createFromArray(0.0, 1.0));
    assertClose(loss.squaredError(), new double[] {4, 1}, 0);
    assertClose(values(loss.cotangent()), new double[] {2, -1}, 0);
  }

  @ParameterizedTest
  @CsvSource({"1, 5", "1, 1", "5, 1"})
  void acceptsBatchesAndSamplesOfOne(int batch, int elements) {
    INDArray u = noise(DataType.FLOAT, 0, batch, elements);
    Loss loss = new AdaptiveLoss(0, 1, Reduction.MEAN).of(u, u.sub(2));
    assertClose(loss.value(), 4, 1e-5);
    assertThat(loss.cotangent().shape()).containsExactly(batch, elements);
    assertClose(loss.cotangent(), u.mul(0).add(4.0 / (batch * elements)), 1e-5);
  }

  @Test
  void notANumberIsNotHidden() {
    INDArray u = Nd4j.createFromArray(new double[][] {{1, Double.NaN}, {1, 2}});
    Loss loss = new AdaptiveLoss(1, 0.01, Reduction.SUM).of(u, Nd4j.zeros(DataType.DOUBLE, 2, 2));
    assertThat(loss.value()).isNaN();
    assertThat(loss.meanSquaredError()).isNaN();
    assertThat(loss.perSample()[0]).isNaN();
    assertThat(loss.perSample()[1]).isFinite();
  }

  @Test
  void refusesWhatIsOutOfRange() {
    for (double bad : new double[] {-0.1, 2.1, Double.NaN}) {
      assertThatThrownBy(() -> new AdaptiveLoss(bad, 1, Reduction.SUM))
          .hasMessage("p must be in [0, 2], got " + bad);
    }
    for (double bad : new double[] {0, -1, Double.NaN, Double.POSITIVE_INFINITY}) {
      assertThatThrownBy(() -> new AdaptiveLoss(1, bad, Reduction.SUM))
          .hasMessage("c must be finite and > 0, got " + bad);
    }
    INDArray u = noise(DataType.DOUBLE, 0, 3, 5);
    INDArray target = noise(DataType.FLOAT, 1, 3, 5);
    assertThatThrownBy(() -> new AdaptiveLoss(1, 1, Reduction.SUM).of(u, target))
        .hasMessage("target must have the shape and type of u, DOUBLE[3, 5], got FLOAT[3, 5]");
  }

  /** The loss of one evaluation with the weights of another. */
  private static double weighted(Loss loss, Loss weights) {
    double sum = 0;
    for (int i = 0; i < loss.squaredError().length; i++) {
      sum += weights.weight()[i] * loss.squaredError()[i];
    }
    return sum / loss.squaredError().length;
  }

  private static INDArray noise(DataType type, long step, long... shape) {
    return new RandomStream(1, step, Purpose.NOISE).normalArray(type, shape);
  }
}
