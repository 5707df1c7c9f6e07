package org.meanflow.sample;

import org.jspecify.annotations.Nullable;
import org.meanflow.core.field.AverageVelocity;
import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * Euler's method for dz/dt = v(z, t | c) = u(z, t, t | c): z_r = z_t − (t − r)·v(z_t, t | c). First
 * order; a baseline that uses the field as ordinary flow matching does.
 *
 * @param times the grid
 */
public record EulerSampler(TimeGrid times) implements Sampler {

  @Override
  public int evaluations() {
    return times.steps();
  }

  @Override
  public INDArray step(
      AverageVelocity field, INDArray z, double t, double r, int @Nullable [] labels) {
    INDArray v = field.v(z, TimeGrid.forEachOf(z, t), labels);
    return z.sub(v.mul(t - r));
  }
}
