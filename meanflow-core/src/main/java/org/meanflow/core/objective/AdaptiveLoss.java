package org.meanflow.core.objective;

import org.meanflow.core.batch.Batches;
import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * The adaptively weighted squared error (arXiv 2505.13447, eq. 22): for each sample s = ‖Δ‖² with Δ
 * = u − u_tgt, w = sg(1/(s + c)^p), and the loss is the mean over the batch of w·s. The paper takes
 * the sum over the elements and p = 1; p = 0 is the plain squared error.
 *
 * @param p power, in [0, 2]
 * @param c constant that keeps w finite, finite and &gt; 0
 * @param reduction how Δ² is reduced over the elements of a sample
 */
public record AdaptiveLoss(double p, double c, Reduction reduction) {

  /** Refuses values outside the ranges of the parameters. */
  public AdaptiveLoss {
    if (!(p >= 0 && p <= 2)) {
      throw new IllegalArgumentException("p must be in [0, 2], got " + p);
    }
    if (!(c > 0 && Double.isFinite(c))) {
      throw new IllegalArgumentException("c must be finite and > 0, got " + c);
    }
  }

  /**
   * Evaluates the loss and its derivative. All is computed in float64. A NaN or infinity in the
   * arguments comes out as a non-finite value.
   *
   * @param u shape {@code [batch, ...]}, float32 or float64; not changed
   * @param target u_tgt, shape and data type of {@code u}; not changed
   * @return the loss with ∂loss/∂u = 2wΔ/batch, divided by the elements of a sample if the
   *     reduction is the mean
   * @throws IllegalArgumentException if shapes or data types differ
   */
  public Loss of(INDArray u, INDArray target) {
    Rows.requireSame("target", target, "u", u);
    int batch = (int) u.size(0);
    double elements =
        switch (reduction) {
          case SUM -> 1;
          case MEAN -> (double) u.length() / batch;
        };
    double[] s = new double[batch];
    double[] w = new double[batch];
    INDArray cotangent =
        Batches.map(
            u,
            target,
            (i, delta, wanted) -> {
              double sum = 0;
              for (int j = 0; j < delta.length; j++) {
                delta[j] -= wanted[j];
                sum += delta[j] * delta[j];
              }
              s[i] = sum / elements;
              w[i] = Math.pow(s[i] + c, -p);
              double slope = 2 * w[i] / (elements * batch);
              for (int j = 0; j < delta.length; j++) {
                delta[j] *= slope;
              }
            });
    double[] perSample = new double[batch];
    double value = 0;
    double squared = 0;
    for (int i = 0; i < batch; i++) {
      perSample[i] = w[i] * s[i];
      value += perSample[i] / batch;
      squared += s[i] * elements;
    }
    return new Loss(value, squared / u.length(), s, w, perSample, cotangent);
  }
}
