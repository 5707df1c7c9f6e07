package org.meanflow.core.objective;

import static org.assertj.core.api.Assertions.assertThat;
import static org.meanflow.core.Closeness.assertClose;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.meanflow.core.batch.Batches;
import org.meanflow.core.field.Derivative;
import org.meanflow.core.field.DifferentiableVelocity;
import org.meanflow.core.field.Tangent;
import org.meanflow.core.oracle.GaussianField;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;

/** The diagnostic must be able to fail: fields that are wrong in one way each. */
class IdentityResidualTest {
  private static final double[] R = {0, 0.25, 0.5, 0.5};
  private static final double[] T = {1, 0.75, 0.5, 0.625};

  private final INDArray z =
      new RandomStream(1, 0, Purpose.NOISE).normalArray(DataType.DOUBLE, 4, 3);
  private final DifferentiableVelocity exact = new GaussianField(0.5, 0.7);

  /** Adds gap·z² elementwise to u (zero at r = t, so v stays right) and the derivative of it. */
  private record Perturbed(DifferentiableVelocity exact, double size)
      implements DifferentiableVelocity {
    @Override
    public INDArray u(INDArray z, double[] r, double[] t, int @Nullable [] labels) {
      return exact.u(z, r, t, labels).add(scaled(z.mul(z), gaps(r, t)));
    }

    @Override
    public Derivative derivative(
        INDArray z, double[] r, double[] t, int @Nullable [] labels, Tangent tangent) {
      INDArray jvp = exact.derivative(z, r, t, labels, tangent).jvp();
      INDArray byZ = scaled(z.mul(tangent.z()).mul(2), gaps(r, t));
      INDArray byTime = z.mul(z).mul(size * (tangent.t() - tangent.r()));
      return new Derivative(u(z, r, t, labels), jvp.add(byZ).add(byTime));
    }

    private double[] gaps(double[] r, double[] t) {
      double[] gaps = new double[r.length];
      Arrays.setAll(gaps, i -> size * (t[i] - r[i]));
      return gaps;
    }
  }

  /** Another field's value or derivative in place of the right one. */
  private record Mixed(DifferentiableVelocity value, DifferentiableVelocity slope)
      implements DifferentiableVelocity {
    @Override
    public INDArray u(INDArray z, double[] r, double[] t, int @Nullable [] labels) {
      return value.u(z, r, t, labels);
    }

    @Override
    public Derivative derivative(
        INDArray z, double[] r, double[] t, int @Nullable [] labels, Tangent tangent) {
      return new Derivative(u(z, r, t, labels), slope.derivative(z, r, t, labels, tangent).jvp());
    }
  }

  @Test
  void anExactFieldHasNone() {
    assertClose(IdentityResidual.of(exact, z, R, T, null), new double[4], 1e-13);
  }

  /** With δ = ε(t − r)z²: residual |δ + (t − r)(2ε(t − r)zv + εz²)|, of order ε(t − r). */
  @Test
  void aWrongValueShowsWhereTimesDiffer() {
    double size = 1e-3;
    double[] residual = IdentityResidual.of(new Perturbed(exact, size), z, R, T, null);
    double[] v = org.meanflow.core.Closeness.values(exact.v(z, T, null));
    double[] expected = new double[4];
    for (int i = 0; i < 12; i++) {
      double gap = T[i / 3] - R[i / 3];
      double point = z.getDouble(i / 3, i % 3);
      double error = 2 * size * gap * (point * point + gap * point * v[i]);
      expected[i / 3] = Math.max(expected[i / 3], Math.abs(error));
    }
    assertClose(residual, expected, 1e-13);
    assertThat(residual[0]).isGreaterThan(1e-4);
    assertThat(residual[1]).isGreaterThan(1e-4);
    assertThat(residual[3]).isGreaterThan(1e-5);
  }

  @Test
  void aWrongDerivativeShowsWhereTimesDiffer() {
    DifferentiableVelocity wrong = new Mixed(exact, new GaussianField(0.5, 0.71));
    double[] residual = IdentityResidual.of(wrong, z, R, T, null);
    assertThat(residual[0]).isGreaterThan(1e-3);
    assertThat(residual[1]).isGreaterThan(1e-3);
    assertClose(residual[2], 0, 1e-13);
  }

  @Test
  void notANumberIsNotHidden() {
    INDArray broken = z.dup();
    broken.putScalar(1, 1, Double.NaN);
    double[] residual = IdentityResidual.of(exact, broken, R, T, null);
    assertThat(residual[1]).isNaN();
    assertClose(residual[0], 0, 1e-13);
  }

  @Test
  void singlePrecisionIsGoodToItsRounding() {
    double[] residual = IdentityResidual.of(exact, z.castTo(DataType.FLOAT), R, T, null);
    assertClose(residual, new double[4], 5e-6); // values up to 5, some roundings of 2⁻²⁴·5 = 3e-7
  }

  /** A batch in which each sample is multiplied by a factor of its own. */
  private static INDArray scaled(INDArray batch, double[] factors) {
    return Batches.map(
        batch,
        batch,
        (i, xs, same) -> {
          for (int j = 0; j < xs.length; j++) {
            xs[j] *= factors[i];
          }
        });
  }
}
