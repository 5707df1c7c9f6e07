package org.meanflow.core.objective;

import java.util.Arrays;
import org.meanflow.core.batch.Batches;
import org.nd4j.linalg.api.ndarray.INDArray;

/** The regression target of MeanFlow (arXiv 2505.13447, eq. 10), under stop-gradient. */
public final class MeanFlowTarget {
  private MeanFlowTarget() {}

  /**
   * u_tgt = ṽ − (t − r)·du/dt, where du/dt is the Jacobian-vector product of u along (ż, ṙ, ṫ) =
   * (ṽ, 0, 1).
   *
   * @param velocity ṽ, shape {@code [batch, ...]}, float32 or float64; not changed
   * @param jvp du/dt of the first m samples, shape {@code [m, ...]}; not changed
   * @param r earlier times, one for each sample; equal to {@code t} from sample m on
   * @param t later times, one for each sample
   * @return u_tgt, a new array of the shape and data type of {@code velocity}
   * @throws IllegalArgumentException if shapes, data types or lengths do not fit, or a sample
   *     without du/dt has r ≠ t
   */
  public static INDArray of(INDArray velocity, INDArray jvp, double[] r, double[] t) {
    Rows.requireOneEach("r", r.length, velocity);
    Rows.requireOneEach("t", t.length, velocity);
    int m = (int) jvp.size(0);
    if (m > t.length) {
      throw new IllegalArgumentException(
          "jvp must have at most %d samples, got %d".formatted(t.length, m));
    }
    double[] minusGap = new double[m];
    for (int i = 0; i < t.length; i++) {
      if (i < m) {
        minusGap[i] = r[i] - t[i];
      } else if (r[i] != t[i]) {
        throw new IllegalArgumentException(
            "r[%d] must equal t[%d] because jvp covers %d samples, got %s, %s"
                .formatted(i, i, m, r[i], t[i]));
      }
    }
    long[] covered = velocity.shape().clone();
    covered[0] = m;
    if (jvp.dataType() != velocity.dataType() || !Arrays.equals(covered, jvp.shape())) {
      throw new IllegalArgumentException(
          "jvp must have the shape and type of the first samples of velocity, %s%s, got %s%s"
              .formatted(
                  velocity.dataType(),
                  Arrays.toString(covered),
                  jvp.dataType(),
                  Arrays.toString(jvp.shape())));
    }
    return Batches.map(
        velocity,
        jvp,
        (i, target, slope) -> {
          double factor = minusGap[i];
          for (int j = 0; j < target.length; j++) {
            target[j] += factor * slope[j];
          }
        });
  }
}
