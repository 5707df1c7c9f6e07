package org.meanflow.core.oracle;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.meanflow.core.Closeness.assertClose;
import static org.meanflow.core.Closeness.values;

import java.util.Arrays;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.meanflow.core.field.Derivative;
import org.meanflow.core.field.Tangent;
import org.meanflow.core.objective.IdentityResidual;
import org.meanflow.core.path.LinearPath;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;
import org.nd4j.linalg.indexing.NDArrayIndex;

class GaussianFieldTest {

  /** Rows of the project's reference fixture gaussian/single (tolerance 1e-11). */
  @ParameterizedTest
  @CsvSource({
    "0.75, 0.5, 1.330810546875, 0.12109375, 0.12109375, -1.0688178138023463, -1.0688178138023463,"
        + " 1.944561554336655, -0.47469202665736476, 1.4372022601753254, 1.9445615543366552",
    "-1.5, 0.125, -0.396728515625, 0.73046875, 0.73046875, 1.5102793601414675, 1.5102793601414675,"
        + " 0.00020679469720565752, 1.3582019077242187, -2.051057513443448, 0.00020679469720567375",
    "0.75, 0.5, -0.44921875, 0.0, 1.0, -1.19921875, -0.974609375,"
        + " -0.224609375, 0.5, 0.375, -0.44921875",
    "-1.5, 0.125, -0.818359375, 0.0, 1.0, 0.681640625, 0.783935546875,"
        + " -0.102294921875, 0.875, -0.69873046875, -0.818359375",
    "0.0, 1.0, 0.3154296875, 0.0, 1.0, 0.3154296875, 0.0,"
        + " 0.3154296875, 0.0, 0.3154296875, 0.3154296875",
    "0.75, 0.5, -0.822998046875, 0.34375, 0.34765625, -1.815787982811005, -1.8033416496211805,"
        + " -3.1862612965950694, 0.8026953296462056, -1.728736763164971, -3.196283334504573",
    "-1.5, 0.125, -1.254638671875, 0.4296875, 0.43359375, 0.6087093101390988, 0.6090439650243072,"
        + " -0.08567165061339632, 2.1997323202293173, -1.424669193750863, -0.08641418213436233",
    "0.75, 0.5, 1.810302734375, 0.0, 0.56640625, 1.0992645533649312, -0.2896602929189958,"
        + " 2.4521707630943816, 0.30997064609630004, 2.1114310192570933, 2.9743807412827",
    "-1.5, 0.125, -0.771240234375, 0.0, 0.58203125, 1.2568382836014196, 1.3051249467723989,"
        + " -0.08296232061591063, 1.350606121861683, -1.7804558006381181, -0.38784651473391507",
    "0.75, 0.5, 1.075927734375, 0.36328125, 0.93359375, 0.3282022463315164, 0.11890238203396508,"
        + " 0.36699154287789826, 0.8467818598170642, 0.08907583433315858, 0.7097525309955356",
    "0.0, 1.0, 0.314697265625, 0.14453125, 0.6328125, 0.1561644811858609, -0.11977329888256248,"
        + " 0.565120573580131, -0.3805984734080496, 0.6245565367200298, 0.4765575484645581",
    "2.0, 2.0, -1.6689453125, 0.32421875, 0.8046875, -2.0603306888397284, 0.37414921915435917,"
        + " -5.066885011760053, -1.1527400665785035, -7.4419107471868955, -3.260846812716489"
  })
  void matchesTheReference(
      double mu,
      double s,
      double z,
      double r,
      double t,
      double v,
      double u,
      double total,
      double byZ,
      double byT,
      double byR) {
    GaussianField field = new GaussianField(mu, s);
    assertClose(values(field.v(scalar(z), times(t), null)), new double[] {v}, 1e-11);
    assertClose(values(field.u(scalar(z), times(r), times(t), null)), new double[] {u}, 1e-11);
    assertClose(slope(field, z, r, t, v, 0, 1), total, 1e-11);
    assertClose(slope(field, z, r, t, 1, 0, 0), byZ, 1e-11);
    assertClose(slope(field, z, r, t, 0, 0, 1), byT, 1e-11);
    assertClose(slope(field, z, r, t, 0, 1, 0), byR, 1e-11);
  }

  /** Values are O(10) and exact up to some rounding, 2⁻⁵³·10 = 1e-15 each: 1e-12 leaves room. */
  @Test
  void satisfiesTheMeanFlowIdentity() {
    TestPoints points = TestPoints.random(200, 6);
    GaussianField field =
        new GaussianField(
            new double[] {-1.5, 0, 0.75, 2, 0.1, -0.3}, new double[] {0.125, 1, 0.5, 2, 0.3, 3});
    double[] residual = IdentityResidual.of(field, points.z(), points.r(), points.t(), null);
    assertClose(residual, new double[residual.length], 1e-12);
  }

  /** With h = 1e-6: truncation h²/6·10⁴ (third derivative, s = 0.3), rounding 2⁻⁵³·10/h = 1e-9. */
  @Test
  void derivativeMatchesCentralDifferences() {
    TestPoints points = TestPoints.random(100, 3).inside(1e-6);
    GaussianField field = new GaussianField(new double[] {-1.5, 0.5, 2}, new double[] {0.3, 1, 2});
    points.assertDerivativeMatchesCentralDifferences(field, 1e-6, 1e-8);
  }

  /** z − u(z, 0, 1) = μ + s·z. */
  @Test
  void oneStepMapsNoiseToData() {
    INDArray noise = new RandomStream(3, 0, Purpose.SAMPLING).normalArray(DataType.DOUBLE, 50, 2);
    GaussianField field = new GaussianField(new double[] {3, -1}, new double[] {0.5, 2});
    INDArray x = noise.sub(field.u(noise, new double[50], constant(50, 1), null));
    INDArray expected =
        noise
            .mulRowVector(Nd4j.createFromArray(0.5, 2.0))
            .addRowVector(Nd4j.createFromArray(3.0, -1.0));
    assertClose(x, expected, 1e-13);
  }

  /**
   * v(z, t) = E[ε − x | z_t = z]: the error has mean 0 and is uncorrelated with z, up to five
   * standard deviations. Var(ε − x | z) = s²/σ_t².
   */
  @Test
  void velocityIsTheConditionalMean() {
    int n = 50_000;
    double t = 0.6;
    double s = 0.5;
    double[] times = constant(n, t);
    INDArray x =
        new RandomStream(5, 0, Purpose.DATA_ORDER).normalArray(DataType.DOUBLE, n, 1).mul(s).add(1);
    INDArray noise = new RandomStream(5, 0, Purpose.NOISE).normalArray(DataType.DOUBLE, n, 1);
    LinearPath path = new LinearPath();
    INDArray z = path.interpolate(x, noise, times);
    INDArray error = new GaussianField(1, s).v(z, times, null).sub(path.velocity(x, noise, times));
    double variance = (1 - t) * (1 - t) * s * s + t * t;
    double mean = error.meanNumber().doubleValue();
    double covariance = error.mul(z.sub(1 - t)).meanNumber().doubleValue();
    assertClose(mean, 0, 5 * Math.sqrt(s * s / variance / n));
    assertClose(covariance, 0, 5 * Math.sqrt(s * s / n));
  }

  @ParameterizedTest
  @EnumSource(
      value = DataType.class,
      names = {"FLOAT", "DOUBLE"})
  void keepsTypeAndTakesAnyShape(DataType type) {
    INDArray z = new RandomStream(1, 0, Purpose.NOISE).normalArray(type, 4, 2, 3, 3);
    double[] r = {0, 0.25, 0.5, 1};
    double[] t = {1, 0.75, 0.5, 1};
    GaussianField field = new GaussianField(0.5, 0.7);
    Derivative derivative = field.derivative(z, r, t, new int[4], Tangent.along(z.dup()));
    assertThat(derivative.u().dataType()).isEqualTo(type);
    assertThat(derivative.jvp().dataType()).isEqualTo(type);
    assertThat(derivative.jvp().shape()).containsExactly(4, 2, 3, 3);
    assertClose(field.u(z, r, t, null), derivative.u(), 0);
  }

  @Test
  void tangentMayCoverTheFirstSamplesOnly() {
    TestPoints points = TestPoints.random(10, 2);
    GaussianField field = new GaussianField(0.5, 0.7);
    INDArray v = field.v(points.z(), points.t(), null);
    double[] all =
        values(field.derivative(points.z(), points.r(), points.t(), null, Tangent.along(v)).jvp());
    for (int m : new int[] {0, 1, 7}) {
      INDArray first =
          m == 0 ? Nd4j.create(DataType.DOUBLE, 0, 2) : v.get(NDArrayIndex.interval(0, m));
      Derivative derivative =
          field.derivative(points.z(), points.r(), points.t(), null, Tangent.along(first));
      assertThat(derivative.jvp().shape()).containsExactly(m, 2);
      assertClose(values(derivative.jvp()), Arrays.copyOf(all, 2 * m), 0);
    }
  }

  @Test
  void refusesWhatDoesNotFit() {
    assertThatThrownBy(() -> new GaussianField(Double.NaN, 1))
        .hasMessage("mean[0] must be finite, got NaN");
    assertThatThrownBy(() -> new GaussianField(0, Double.NaN))
        .hasMessage("std[0] must be finite and > 0, got NaN");
    assertThatThrownBy(() -> new GaussianField(new double[2], new double[1]))
        .hasMessage("mean and std must have the same length > 0, got 2 and 1");
    GaussianField field = new GaussianField(new double[2], new double[] {1, 1});
    INDArray z = Nd4j.zeros(DataType.DOUBLE, 2, 3);
    assertThatThrownBy(() -> field.u(z, new double[2], new double[2], null))
        .hasMessage("z must have 2 coordinates in each sample, got 3");
    assertThatThrownBy(() -> field.u(z, new double[1], new double[2], null))
        .hasMessage("r and t must have one time for each of 2 samples, got 1 and 2");
    assertThatThrownBy(() -> field.u(z, new double[] {0, 0.5}, new double[] {0, 0.4}, null))
        .hasMessage("r[1], t[1] must satisfy 0 <= r <= t <= 1, got 0.5, 0.4");
    GaussianField any = new GaussianField(0, 1);
    Tangent wrong = Tangent.along(Nd4j.zeros(DataType.DOUBLE, 2, 2));
    assertThatThrownBy(() -> any.derivative(z, new double[2], new double[2], null, wrong))
        .hasMessage("tangent.z must cover the first samples of z, shape [2, 3], got [2, 2]");
  }

  private static double slope(
      GaussianField field, double z, double r, double t, double dz, double dr, double dt) {
    Tangent tangent = new Tangent(scalar(dz), dr, dt);
    return values(field.derivative(scalar(z), times(r), times(t), null, tangent).jvp())[0];
  }

  private static INDArray scalar(double value) {
    return Nd4j.createFromArray(new double[] {value}).reshape(1, 1);
  }

  private static double[] times(double t) {
    return new double[] {t};
  }

  private static double[] constant(int n, double value) {
    double[] values = new double[n];
    Arrays.fill(values, value);
    return values;
  }
}
