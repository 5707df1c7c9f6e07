package org.meanflow.core.path;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.meanflow.core.Closeness.assertClose;
import static org.meanflow.core.Closeness.values;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

class FlowPathTest {

  @ParameterizedTest
  @ValueSource(strings = {"linear", "cosine"})
  void isFoundByItsName(String name) {
    assertThat(FlowPath.named(name).name()).isEqualTo(name);
  }

  @Test
  void unknownNamesAreRefusedWithTheKnownOnes() {
    assertThatThrownBy(() -> FlowPath.named("curved"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("path must be one of linear, cosine, got curved");
  }

  /** cos(π/2) is 6e-17 in float64. */
  @ParameterizedTest
  @ValueSource(strings = {"linear", "cosine"})
  void leadsFromDataToNoise(String name) {
    FlowPath path = FlowPath.named(name);
    assertClose(path.dataWeight(0), 1, 0);
    assertClose(path.noiseWeight(0), 0, 0);
    assertClose(path.dataWeight(1), 0, 1e-16);
    assertClose(path.noiseWeight(1), 1, 0);
  }

  /** Truncation h²/6·(π/2)³ = 6.5e-11 and rounding 2⁻⁵³/h = 1.1e-11 with h = 1e-5. */
  @ParameterizedTest
  @ValueSource(strings = {"linear", "cosine"})
  void ratesAreTheDerivativesOfTheWeights(String name) {
    FlowPath path = FlowPath.named(name);
    double h = 1e-5;
    for (double t = 0.05; t < 1; t += 0.05) {
      assertClose(
          path.dataWeightRate(t),
          (path.dataWeight(t + h) - path.dataWeight(t - h)) / (2 * h),
          1e-10);
      assertClose(
          path.noiseWeightRate(t),
          (path.noiseWeight(t + h) - path.noiseWeight(t - h)) / (2 * h),
          1e-10);
    }
  }

  @Test
  void cosinePreservesVariance() {
    FlowPath path = new CosinePath();
    for (double t = 0; t <= 1; t += 0.125) {
      assertClose(Math.pow(path.dataWeight(t), 2) + Math.pow(path.noiseWeight(t), 2), 1, 1e-15);
    }
  }

  /** Multiples of 1/256: z = (1 − t)x + tε and v = ε − x are exact in both data types. */
  @ParameterizedTest
  @EnumSource(
      value = DataType.class,
      names = {"FLOAT", "DOUBLE"})
  void linearPathIsExactOnDyadicNumbers(DataType type) {
    INDArray x = array(type, new double[] {1, -0.5, 0.25, 3, 2, -1}, 3, 2, 1);
    INDArray noise = array(type, new double[] {0.5, 1, -2, 1, 0, 4}, 3, 2, 1);
    double[] t = {0, 0.25, 1};
    FlowPath path = new LinearPath();
    INDArray z = path.interpolate(x, noise, t);
    INDArray v = path.velocity(x, noise, t);
    assertThat(z.dataType()).isEqualTo(type);
    assertThat(v.dataType()).isEqualTo(type);
    assertClose(z, array(type, new double[] {1, -0.5, -0.3125, 2.5, 0, 4}, 3, 2, 1), 0);
    assertClose(v, array(type, new double[] {-0.5, 1.5, -2.25, -2, -2, 5}, 3, 2, 1), 0);
  }

  @ParameterizedTest
  @CsvSource({"linear, DOUBLE, 1e-9", "cosine, DOUBLE, 1e-9", "cosine, FLOAT, 2e-3"})
  void velocityIsTheDerivativeOfThePoint(String name, DataType type, double tolerance) {
    FlowPath path = FlowPath.named(name);
    INDArray x = noise(type, 0, 4, 3, 2, 2);
    INDArray noise = noise(type, 1, 4, 3, 2, 2);
    // h: float64 truncation 6.5e-11·|ε| against float32 rounding 2⁻²⁴·4/h = 2.4e-4·|ε|
    double h = type == DataType.DOUBLE ? 1e-5 : 1e-3;
    double[] t = {0.1, 0.3, 0.5, 0.9};
    double[] before = {0.1 - h, 0.3 - h, 0.5 - h, 0.9 - h};
    double[] after = {0.1 + h, 0.3 + h, 0.5 + h, 0.9 + h};
    INDArray difference =
        path.interpolate(x, noise, after).sub(path.interpolate(x, noise, before)).div(2 * h);
    assertClose(path.velocity(x, noise, t), difference, tolerance);
  }

  @Test
  void timesBelongToSamplesAndArgumentsStayAsTheyAre() {
    INDArray x = noise(DataType.DOUBLE, 0, 2, 5);
    INDArray noise = noise(DataType.DOUBLE, 1, 2, 5);
    double[] xBefore = values(x);
    double[] noiseBefore = values(noise);
    INDArray z = new LinearPath().interpolate(x, noise, new double[] {0, 1});
    assertClose(z.getRow(0), x.getRow(0), 0);
    assertClose(z.getRow(1), noise.getRow(1), 0);
    z.addi(1);
    assertClose(values(x), xBefore, 0);
    assertClose(values(noise), noiseBefore, 0);
  }

  @Test
  void acceptsViewsAndColumnMajorArrays() {
    INDArray x = noise(DataType.DOUBLE, 0, 5, 3).transpose();
    INDArray noise = noise(DataType.DOUBLE, 1, 3, 5).dup('f');
    double[] t = {0.25, 0.5, 0.75};
    assertClose(
        new CosinePath().interpolate(x, noise, t),
        new CosinePath().interpolate(x.dup('c'), noise.dup('c'), t),
        0);
  }

  @Test
  void acceptsOneNumberForEachSample() {
    INDArray z =
        new LinearPath()
            .interpolate(
                Nd4j.createFromArray(0.0, 0.0),
                Nd4j.createFromArray(1.0, 1.0),
                new double[] {0, 1});
    assertClose(z, Nd4j.createFromArray(0.0, 1.0), 0);
  }

  @Test
  void refusesWhatDoesNotFit() {
    INDArray x = noise(DataType.DOUBLE, 0, 2, 3);
    double[] t = {0, 1};
    assertThatThrownBy(() -> new LinearPath().interpolate(x, noise(DataType.DOUBLE, 1, 2, 4), t))
        .hasMessage("noise must have the shape and type of x, DOUBLE[2, 3], got DOUBLE[2, 4]");
    assertThatThrownBy(() -> new LinearPath().velocity(x, noise(DataType.FLOAT, 1, 2, 3), t))
        .hasMessageContaining("got FLOAT[2, 3]");
    assertThatThrownBy(() -> new LinearPath().interpolate(x, x, new double[] {0}))
        .hasMessage("t must have one time for each of 2 samples, got 1");
    assertThatThrownBy(() -> new LinearPath().interpolate(x, x, new double[] {0, Double.NaN}))
        .hasMessage("t[1] must be in [0, 1], got NaN");
    assertThatThrownBy(() -> new LinearPath().velocity(x, x, new double[] {-0.01, 1}))
        .hasMessage("t[0] must be in [0, 1], got -0.01");
    INDArray integers = x.castTo(DataType.INT);
    assertThatThrownBy(() -> new LinearPath().interpolate(integers, integers, t))
        .hasMessage("x must be float32 or float64, got INT");
  }

  private static INDArray noise(DataType type, long step, long... shape) {
    return new RandomStream(1, step, Purpose.NOISE).normalArray(type, shape);
  }

  private static INDArray array(DataType type, double[] values, long... shape) {
    return Nd4j.createFromArray(values).castTo(type).reshape(shape);
  }
}
