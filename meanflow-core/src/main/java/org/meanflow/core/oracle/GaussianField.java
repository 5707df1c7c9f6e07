package org.meanflow.core.oracle;

/**
 * The exact average velocity when the data are Gaussian and the path is linear: x ~ N(μ, s²) in
 * each coordinate by itself, ε ~ N(0, 1), z_t = (1 − t)·x + t·ε.
 *
 * <p>With σ_t² = (1 − t)²s² + t² the flow carries z at time t to z_r = (1 − r)μ + σ_r/σ_t·(z − (1 −
 * t)μ), and u = (z − z_r)/(t − r) can be written without the division:
 *
 * <pre>{@code
 * u(z, r, t) = −μ + q·(z − (1 − t)μ),   q = (t + r − (2 − t − r)s²) / (σ_t(σ_t + σ_r))
 * }</pre>
 *
 * which is exact at r = t, where it is v(z, t). Derivatives are those of this form, so the MeanFlow
 * identity is not built in. One step from t = 1 to r = 0 gives μ + s·z. Computed in float64; labels
 * are ignored.
 */
public final class GaussianField extends ElementwiseField {
  private final double[] mean;
  private final double[] std;

  /**
   * The same law for all coordinates, for samples of any shape.
   *
   * @param mean μ, finite
   * @param std s, finite and &gt; 0
   */
  public GaussianField(double mean, double std) {
    this(new double[] {mean}, new double[] {std});
  }

  /**
   * A law for each coordinate.
   *
   * @param mean μ for each coordinate of a sample in row-major order, finite; a single one holds
   *     for all coordinates
   * @param std s, likewise, finite and &gt; 0
   */
  public GaussianField(double[] mean, double[] std) {
    if (mean.length == 0 || mean.length != std.length) {
      throw new IllegalArgumentException(
          "mean and std must have the same length > 0, got %d and %d"
              .formatted(mean.length, std.length));
    }
    for (int i = 0; i < mean.length; i++) {
      if (!Double.isFinite(mean[i])) {
        throw new IllegalArgumentException("mean[%d] must be finite, got %s".formatted(i, mean[i]));
      }
      if (!(std[i] > 0 && Double.isFinite(std[i]))) {
        throw new IllegalArgumentException(
            "std[%d] must be finite and > 0, got %s".formatted(i, std[i]));
      }
    }
    this.mean = mean.clone();
    this.std = std.clone();
  }

  @Override
  void requireCoordinates(int count) {
    if (mean.length != 1 && mean.length != count) {
      throw new IllegalArgumentException(
          "z must have %d coordinates in each sample, got %d".formatted(mean.length, count));
    }
  }

  @Override
  Dual u(int coordinate, Dual z, Dual r, Dual t) {
    int k = mean.length == 1 ? 0 : coordinate;
    double mu = mean[k];
    double s2 = std[k] * std[k];
    double sigmaR = sigma(r.value(), s2);
    double sigmaT = sigma(t.value(), s2);
    double sigmaRateR = halfVarianceRate(r.value(), s2) / sigmaR;
    double sigmaRateT = halfVarianceRate(t.value(), s2) / sigmaT;

    double numerator = t.value() + r.value() - (2 - t.value() - r.value()) * s2;
    double denominator = sigmaT * (sigmaT + sigmaR);
    double q = numerator / denominator;
    double qByR = (1 + s2 - q * sigmaT * sigmaRateR) / denominator;
    double qByT = (1 + s2 - q * sigmaRateT * (2 * sigmaT + sigmaR)) / denominator;

    double deviation = z.value() - (1 - t.value()) * mu;
    double byZ = q;
    double byR = qByR * deviation;
    double byT = qByT * deviation + q * mu;
    return new Dual(q * deviation - mu, byZ * z.tangent() + byR * r.tangent() + byT * t.tangent());
  }

  private static double sigma(double t, double s2) {
    return Math.sqrt((1 - t) * (1 - t) * s2 + t * t);
  }

  /** ½ d(σ_t²)/dt. */
  private static double halfVarianceRate(double t, double s2) {
    return t - (1 - t) * s2;
  }
}
