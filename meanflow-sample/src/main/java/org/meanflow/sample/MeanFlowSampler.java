package org.meanflow.sample;

import org.jspecify.annotations.Nullable;
import org.meanflow.core.field.AverageVelocity;
import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * MeanFlow sampling, z_r = z_t − (t − r)·u(z_t, r, t | c), with one evaluation for each step (arXiv
 * 2505.13447, eq. 12 and algorithm 2). Exact on any grid if u is the true average velocity.
 *
 * @param times the grid; a single step is the paper's 1-NFE sampling
 */
public record MeanFlowSampler(TimeGrid times) implements Sampler {

  /** {@return the sampler of a single step: x = ε − u(ε, 0, 1 | c)} */
  public static MeanFlowSampler oneStep() {
    return new MeanFlowSampler(TimeGrid.uniform(1));
  }

  @Override
  public int evaluations() {
    return times.steps();
  }

  @Override
  public INDArray step(
      AverageVelocity field, INDArray z, double t, double r, int @Nullable [] labels) {
    INDArray u = field.u(z, TimeGrid.forEachOf(z, r), TimeGrid.forEachOf(z, t), labels);
    return u.mul(r - t).addi(z);
  }
}
