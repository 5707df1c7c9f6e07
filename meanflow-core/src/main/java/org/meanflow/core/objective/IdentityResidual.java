package org.meanflow.core.objective;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;
import org.meanflow.core.field.Derivative;
import org.meanflow.core.field.DifferentiableVelocity;
import org.meanflow.core.field.Tangent;
import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * How far a field is from satisfying the MeanFlow identity (arXiv 2505.13447, eq. 6) with its own
 * instantaneous velocity: u(z, r, t) = v(z, t) − (t − r)·du/dt. A field of which this holds
 * everywhere is the average of its own v, so one step is as good as many.
 */
public final class IdentityResidual {
  private IdentityResidual() {}

  /**
   * The residual max |u − (v − (t − r)·du/dt)| over the elements of each sample, with v = u(z, t, t
   * | c) and du/dt the derivative along (v, 0, 1).
   *
   * @param field the field to examine
   * @param z points, shape {@code [batch, ...]}, float32 or float64; not changed
   * @param r earlier times, one for each sample
   * @param t later times, one for each sample
   * @param labels class of each sample, or {@code null} if no sample has one
   * @return one residual for each sample, in the units of u; NaN if an element is
   */
  public static double[] of(
      DifferentiableVelocity field, INDArray z, double[] r, double[] t, int @Nullable [] labels) {
    INDArray v = field.v(z, t, labels);
    Derivative derivative = field.derivative(z, r, t, labels, Tangent.along(v));
    INDArray difference = derivative.u().sub(MeanFlowTarget.of(v, derivative.jvp(), r, t));
    // Math.max keeps NaN; ND4J's amax need not.
    return Arrays.stream(Rows.matrix(difference).toDoubleMatrix())
        .mapToDouble(row -> Arrays.stream(row).map(Math::abs).reduce(0, Math::max))
        .toArray();
  }
}
