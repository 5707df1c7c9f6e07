package org.meanflow.core.field;

import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * A direction (ż, ṙ, ṫ) in which to differentiate u(z, r, t), for the first m samples of a batch.
 *
 * <p>MeanFlow multiplies du/dt by t − r, so samples with r = t need no tangent. With the r ≠ t
 * samples first in the batch, a tangent of m rows covers exactly those that do.
 *
 * @param z ż, shape {@code [m, ...]} with 0 ≤ m ≤ batch; its row i belongs to sample i
 * @param r ṙ, the same for all samples
 * @param t ṫ, the same for all samples
 */
public record Tangent(INDArray z, double r, double t) {

  /**
   * The direction of the total derivative d/dt at fixed r (arXiv 2505.13447, eq. 8).
   *
   * @param velocity v, shape {@code [m, ...]}
   * @return (ż, ṙ, ṫ) = (v, 0, 1)
   */
  public static Tangent along(INDArray velocity) {
    return new Tangent(velocity, 0, 1);
  }

  /** {@return m, how many samples the tangent covers} */
  public int rows() {
    return (int) z.size(0);
  }
}
