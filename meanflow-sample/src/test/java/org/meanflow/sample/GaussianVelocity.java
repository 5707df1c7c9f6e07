package org.meanflow.sample;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.meanflow.core.field.AverageVelocity;
import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * The true average velocity for data x ~ N(mean, std²) in every component: along a trajectory (z −
 * mean_t)/std_t is constant with mean_t = (1−t)·mean and std_t² = (1−t)²·std² + t², so u = (z_t −
 * z_r)/(t − r). A label c ≥ 0 adds c to the mean.
 */
final class GaussianVelocity implements AverageVelocity {
  private final double mean;
  private final double std;

  /** The labels of each evaluation so far. */
  final List<int @Nullable []> labels = new ArrayList<>();

  GaussianVelocity(double mean, double std) {
    this.mean = mean;
    this.std = std;
  }

  /** Where the trajectory that starts at ε with t = 1 ends: x = mean + std·ε. */
  INDArray data(INDArray noise) {
    return noise.mul(std).addi(mean);
  }

  @Override
  public INDArray u(INDArray z, double[] r, double[] t, int @Nullable [] labels) {
    this.labels.add(labels);
    INDArray u = z.dup();
    for (int i = 0; i < t.length; i++) {
      double mu = mean + (labels == null ? 0 : labels[i]);
      double scaleT = scale(t[i]);
      INDArray zi = u.slice(i);
      INDArray centred = zi.sub((1 - t[i]) * mu);
      if (r[i] == t[i]) {
        // v = dz/dt = −mu + std_t'/std_t·(z − mean_t), std_t' = (t − (1−t)·std²)/std_t.
        double slope = (t[i] - (1 - t[i]) * std * std) / (scaleT * scaleT);
        zi.assign(centred.mul(slope).subi(mu));
      } else {
        INDArray zr = centred.mul(scale(r[i]) / scaleT).addi((1 - r[i]) * mu);
        zi.assign(zi.sub(zr).divi(t[i] - r[i]));
      }
    }
    return u;
  }

  private double scale(double t) {
    return Math.hypot((1 - t) * std, t);
  }
}
