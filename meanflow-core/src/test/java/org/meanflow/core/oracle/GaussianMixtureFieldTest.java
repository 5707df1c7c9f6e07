package org.meanflow.core.oracle;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.meanflow.core.Closeness.assertClose;
import static org.meanflow.core.Closeness.values;

import java.util.Arrays;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.meanflow.core.field.Derivative;
import org.meanflow.core.field.Tangent;
import org.meanflow.core.objective.IdentityResidual;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

class GaussianMixtureFieldTest {
  private static final double[] WEIGHTS = {0.375, 0.625};
  private static final double[] MEANS = {-1.5, 1};
  private static final double[] STDS = {0.25, 0.5};
  private static final GaussianMixtureField FIELD = new GaussianMixtureField(WEIGHTS, MEANS, STDS);

  /**
   * Rows of the project's reference fixture gaussian/mixture: v in closed form, u by 6000 steps in
   * 80-bit arithmetic (tolerances 1e-11, 1e-8; du/dt 1e-7, and 1e-6 where t − r = 1/256).
   */
  @ParameterizedTest
  @CsvSource({
    "-1.397705078125, 0.12109375, 0.12109375, 1.4165919705970251, 1.4165919705970251,"
        + " -0.6259185549302227",
    "-0.679443359375, 0.8125, 0.8125, -0.5348279641375027, -0.5348279641375027,"
        + " -1.2483902914695755",
    "1.1005859375, 0.24609375, 0.24609375, -0.9014352940716794, -0.9014352940716794,"
        + " 1.055164979542606",
    "-0.199951171875, 0.0, 1.0, -0.26245117187500006, -0.4738224408546489, 0.2113712689796489",
    "-1.126220703125, 0.0, 1.0, -1.188720703125, 0.4722981728622167, -1.6610188759872166",
    "0.60595703125, 0.0, 1.0, 0.5434570312499999, -0.475066204396191, 1.0185232356461908",
    "0.679931640625, 0.35546875, 0.359375, -0.9654906163854937, -0.9659284596324224,"
        + " 0.1120878712137241",
    "-0.843505859375, 0.32421875, 0.328125, 1.814992716019809, 1.8157405114211866,"
        + " -0.19143562275270298",
    "1.999267578125, 0.0, 0.74609375, 1.264908526876117, -0.19571105174419356, 1.957689068726699",
    "-1.046630859375, 0.0, 0.33984375, 1.3744607747248097, 1.4433756419691963,"
        + " -0.20278397717888488",
    "0.7109375, 0.33984375, 0.765625, 0.28325100810463455, -0.403877474577208, 1.6138063446472632",
    "0.322021484375, 0.04296875, 0.43359375, -1.1290947105188673, -1.0346598396519202,"
        + " -0.24175326941938466",
    "-0.542724609375, 0.48046875, 0.890625, -0.5438257392241642, 0.008227632315686616,"
        + " -1.3459586963257315"
  })
  void matchesTheReference(double z, double r, double t, double v, double u, double total) {
    INDArray point = Nd4j.createFromArray(new double[] {z});
    double[] rs = {r};
    double[] ts = {t};
    assertClose(values(FIELD.v(point, ts, null)), new double[] {v}, 1e-11);
    assertClose(values(FIELD.u(point, rs, ts, null)), new double[] {u}, 1e-8);
    Tangent along = Tangent.along(Nd4j.createFromArray(new double[] {v}));
    Derivative derivative = FIELD.derivative(point, rs, ts, null, along);
    assertClose(values(derivative.u()), new double[] {u}, 1e-8);
    assertClose(values(derivative.jvp()), new double[] {total}, t - r < 0.005 ? 1e-6 : 1e-7);
  }

  @Test
  void satisfiesTheMeanFlowIdentity() {
    TestPoints points = TestPoints.random(400, 1);
    double[] residual = IdentityResidual.of(FIELD, points.z(), points.r(), points.t(), null);
    assertClose(residual, new double[residual.length], 1e-8);
  }

  /**
   * The identity is not built in: with four steps the solver is wrong and the residual shows it.
   */
  @Test
  void aCoarseSolverViolatesTheIdentity() {
    TestPoints points = TestPoints.random(100, 1);
    GaussianMixtureField coarse = new GaussianMixtureField(WEIGHTS, MEANS, STDS, 4);
    double[] residual = IdentityResidual.of(coarse, points.z(), points.r(), points.t(), null);
    assertThat(Arrays.stream(residual).max().orElse(Double.NaN)).isGreaterThan(1e-3);
  }

  /**
   * The derivative is that of the solver itself, so it holds with few steps too. With h = 1e-6:
   * truncation h²/6·10⁵ (third derivative near the narrow component), rounding 2⁻⁵³·5/h = 6e-10.
   */
  @ParameterizedTest
  @CsvSource({"1", "8", "256"})
  void derivativeMatchesCentralDifferences(int steps) {
    TestPoints.random(100, 1)
        .inside(1e-6)
        .assertDerivativeMatchesCentralDifferences(
            new GaussianMixtureField(WEIGHTS, MEANS, STDS, steps), 1e-6, 2e-8);
  }

  /** Two equal components are one, and one is {@link GaussianField}. */
  @ParameterizedTest
  @CsvSource({"0.25, -1.5", "0.5, 1", "2, 0.3"})
  void equalComponentsAreOneGaussian(double std, double mean) {
    TestPoints points = TestPoints.random(200, 1);
    GaussianField one = new GaussianField(mean, std);
    GaussianMixtureField two =
        new GaussianMixtureField(
            new double[] {1, 3}, new double[] {mean, mean}, new double[] {std, std});
    INDArray v = one.v(points.z(), points.t(), null);
    Tangent along = Tangent.along(v);
    Derivative expected = one.derivative(points.z(), points.r(), points.t(), null, along);
    Derivative actual = two.derivative(points.z(), points.r(), points.t(), null, along);
    assertClose(two.v(points.z(), points.t(), null), v, 1e-12);
    assertClose(actual.u(), expected.u(), 1e-8);
    assertClose(actual.jvp(), expected.jvp(), 1e-7);
  }

  /** Fourth order: 2⁴, up to higher-order terms that 128 steps have not quite left behind. */
  @Test
  void halvingTheStepDividesTheErrorBySixteen() {
    TestPoints points = TestPoints.random(100, 1);
    INDArray exact = u(4096, points);
    double coarse = u(128, points).sub(exact).norm2Number().doubleValue();
    double fine = u(256, points).sub(exact).norm2Number().doubleValue();
    assertClose(coarse / fine, 16, 4);
  }

  @Test
  void isElementwise() {
    TestPoints points = TestPoints.random(6, 4);
    INDArray all = FIELD.u(points.z(), points.r(), points.t(), null);
    INDArray column = points.z().getColumn(2).dup().reshape(6, 1);
    assertClose(
        all.getColumn(2).dup().reshape(6, 1), FIELD.u(column, points.r(), points.t(), null), 0);
    INDArray single = FIELD.u(points.z().castTo(DataType.FLOAT), points.r(), points.t(), null);
    assertThat(single.dataType()).isEqualTo(DataType.FLOAT);
  }

  /** Far in the tail all densities underflow; the posterior must be decided, not 0/0. */
  @Test
  void isFiniteFarAway() {
    INDArray z = Nd4j.createFromArray(-1e3, 1e3);
    assertThat(values(FIELD.v(z, new double[] {0.01, 0.01}, null))).doesNotContain(Double.NaN);
  }

  @Test
  void refusesWhatIsOutOfRange() {
    double[] one = {1};
    assertThatThrownBy(() -> new GaussianMixtureField(one, one, new double[] {Double.NaN}))
        .hasMessage("stds[0] must be finite and > 0, got NaN");
    assertThatThrownBy(() -> new GaussianMixtureField(new double[] {0}, one, one))
        .hasMessage("weights[0] must be finite and > 0, got 0.0");
    assertThatThrownBy(() -> new GaussianMixtureField(one, new double[] {Double.NaN}, one))
        .hasMessage("means[0] must be finite, got NaN");
    assertThatThrownBy(() -> new GaussianMixtureField(one, one, new double[2]))
        .hasMessage("weights, means and stds must have the same length > 0, got 1, 1, 2");
    assertThatThrownBy(() -> new GaussianMixtureField(one, one, one, 0))
        .hasMessage("steps must be > 0, got 0");
  }

  private static INDArray u(int steps, TestPoints points) {
    return new GaussianMixtureField(WEIGHTS, MEANS, STDS, steps)
        .u(points.z(), points.r(), points.t(), null);
  }
}
