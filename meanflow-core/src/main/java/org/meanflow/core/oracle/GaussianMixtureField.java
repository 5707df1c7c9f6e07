package org.meanflow.core.oracle;

/**
 * The average velocity when the data are a mixture of Gaussians and the path is linear: x ~ Σ w_k
 * N(μ_k, s_k²) in each coordinate by itself, ε ~ N(0, 1), z_t = (1 − t)·x + t·ε.
 *
 * <p>The instantaneous velocity is closed: with σ_k² = (1 − t)²s_k² + t², d_k = z − (1 − t)μ_k and
 * p_k ∝ w_k N(d_k; 0, σ_k²),
 *
 * <pre>{@code
 * v(z, t) = Σ p_k v_k,   v_k = −μ_k + (t − (1 − t)s_k²)/σ_k² · d_k
 * }</pre>
 *
 * <p>The average velocity is the mean of v along the trajectory back to time r, by the classical
 * fourth-order Runge–Kutta method on the fraction of the way from t to r. It is taken as the mean
 * of the slopes, not as a difference of positions, so that nothing cancels for small t − r, and u =
 * v at r = t. Derivatives are pushed through the solver, so the MeanFlow identity u = v − (t −
 * r)·du/dt holds only as far as the solver is right, and tests it. Computed in float64; labels are
 * ignored.
 */
public final class GaussianMixtureField extends ElementwiseField {

  /**
   * Runge–Kutta steps unless told otherwise: for components no narrower than 0.25 and means within
   * ±2, the error of u and the residual of the identity stay below 1e-8.
   */
  public static final int DEFAULT_STEPS = 256;

  private final double[] logWeight;
  private final double[] mean;
  private final double[] variance;
  private final int steps;

  /**
   * A mixture solved with {@link #DEFAULT_STEPS} steps.
   *
   * @param weights w_k, finite and &gt; 0; divided by their sum
   * @param means μ_k, finite
   * @param stds s_k, finite and &gt; 0
   */
  public GaussianMixtureField(double[] weights, double[] means, double[] stds) {
    this(weights, means, stds, DEFAULT_STEPS);
  }

  /**
   * A mixture solved with a given number of steps.
   *
   * @param weights w_k, finite and &gt; 0; divided by their sum
   * @param means μ_k, finite
   * @param stds s_k, finite and &gt; 0
   * @param steps Runge–Kutta steps from t to r, &gt; 0; the error falls with their fourth power
   */
  public GaussianMixtureField(double[] weights, double[] means, double[] stds, int steps) {
    if (weights.length == 0 || means.length != weights.length || stds.length != weights.length) {
      throw new IllegalArgumentException(
          "weights, means and stds must have the same length > 0, got %d, %d, %d"
              .formatted(weights.length, means.length, stds.length));
    }
    if (steps <= 0) {
      throw new IllegalArgumentException("steps must be > 0, got " + steps);
    }
    logWeight = new double[weights.length];
    mean = means.clone();
    variance = new double[stds.length];
    for (int k = 0; k < weights.length; k++) {
      requirePositive("weights", k, weights[k]);
      requirePositive("stds", k, stds[k]);
      if (!Double.isFinite(means[k])) {
        throw new IllegalArgumentException(
            "means[%d] must be finite, got %s".formatted(k, means[k]));
      }
      logWeight[k] = Math.log(weights[k]);
      variance[k] = stds[k] * stds[k];
    }
    this.steps = steps;
  }

  @Override
  void requireCoordinates(int count) {
    // The same mixture in each coordinate: any number of them will do.
  }

  @Override
  Dual u(int coordinate, Dual z, Dual r, Dual t) {
    Dual gap = t.minus(r);
    if (gap.value() == 0 && gap.tangent() == 0) { // the mean over no time at all
      return v(z, t);
    }
    Dual step = gap.times(1.0 / steps);
    Dual halfStep = step.times(0.5);
    Dual sum = Dual.constant(0);
    for (int i = 0; i < steps; i++) {
      Dual start = t.minus(step.times(i));
      Dual middle = start.minus(halfStep);
      Dual end = t.minus(step.times(i + 1));
      Dual k1 = v(z, start);
      Dual k2 = v(z.minus(halfStep.times(k1)), middle);
      Dual k3 = v(z.minus(halfStep.times(k2)), middle);
      Dual k4 = v(z.minus(step.times(k3)), end);
      Dual slope = k1.plus(k2.times(2)).plus(k3.times(2)).plus(k4).times(1.0 / 6);
      sum = sum.plus(slope);
      z = z.minus(step.times(slope));
    }
    return sum.times(1.0 / steps);
  }

  /** v(z, t) with its derivative from closed-form ∂v/∂z and ∂v/∂t. */
  private Dual v(Dual z, Dual t) {
    int components = mean.length;
    double[] velocity = new double[components];
    double[] velocityTangent = new double[components];
    double[] logMass = new double[components];
    double[] logMassTangent = new double[components];
    double greatest = Double.NEGATIVE_INFINITY;
    for (int k = 0; k < components; k++) {
      double data = 1 - t.value();
      double sigma2 = data * data * variance[k] + t.value() * t.value();
      double rate = (t.value() - data * variance[k]) / sigma2; // σ'/σ
      double deviation = z.value() - data * mean[k];
      velocity[k] = rate * deviation - mean[k];
      double rateByT = (1 + variance[k]) / sigma2 - 2 * rate * rate;
      double velocityByT = rateByT * deviation + rate * mean[k];
      velocityTangent[k] = rate * z.tangent() + velocityByT * t.tangent();

      logMass[k] = logWeight[k] - 0.5 * (Math.log(sigma2) + deviation * deviation / sigma2);
      double logMassByT = (rate * deviation - mean[k]) * deviation / sigma2 - rate;
      logMassTangent[k] = -deviation / sigma2 * z.tangent() + logMassByT * t.tangent();
      greatest = Math.max(greatest, logMass[k]);
    }
    double total = 0;
    double mixed = 0;
    for (int k = 0; k < components; k++) {
      logMass[k] = Math.exp(logMass[k] - greatest);
      total += logMass[k];
      mixed += logMass[k] * velocity[k];
    }
    mixed /= total;
    double mixedTangent = 0;
    for (int k = 0; k < components; k++) {
      double posterior = logMass[k] / total;
      // dp_k = p_k(l̇_k − Σ p l̇), and Σ dp_k = 0 lets v_k be measured from v.
      mixedTangent += posterior * (velocityTangent[k] + logMassTangent[k] * (velocity[k] - mixed));
    }
    return new Dual(mixed, mixedTangent);
  }

  private static void requirePositive(String field, int k, double value) {
    if (!(value > 0 && Double.isFinite(value))) {
      throw new IllegalArgumentException(
          "%s[%d] must be finite and > 0, got %s".formatted(field, k, value));
    }
  }
}
