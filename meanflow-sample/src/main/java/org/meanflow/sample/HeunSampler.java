package org.meanflow.sample;

import org.jspecify.annotations.Nullable;
import org.meanflow.core.field.AverageVelocity;
import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * Heun's method for dz/dt = v(z, t | c) = u(z, t, t | c): z_r = z_t − (t − r)·(k₁ + k₂)/2 with k₁ =
 * v(z_t, t | c) and k₂ = v(z_t − (t − r)·k₁, r | c). Second order. Unlike in EDM (arXiv
 * 2206.00364), the last step is corrected too: v is defined at t = 0.
 *
 * @param times the grid
 */
public record HeunSampler(TimeGrid times) implements Sampler {

  @Override
  public int evaluations() {
    return 2 * times.steps();
  }

  @Override
  public INDArray step(
      AverageVelocity field, INDArray z, double t, double r, int @Nullable [] labels) {
    INDArray k1 = field.v(z, TimeGrid.forEachOf(z, t), labels);
    INDArray k2 = field.v(z.sub(k1.mul(t - r)), TimeGrid.forEachOf(z, r), labels);
    return z.sub(k1.add(k2).muli((t - r) / 2));
  }
}
