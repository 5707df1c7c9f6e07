package org.meanflow.sample;

import org.nd4j.linalg.api.ndarray.INDArray;

/** Watches the trajectory of a batch from noise to data. */
@FunctionalInterface
public interface StepListener {

  /** Watches nothing. */
  StepListener NONE = (step, t, z) -> {};

  /**
   * Called with the noise as step 0 and then after each step.
   *
   * @param step number of steps done, 0 to n
   * @param t the time reached: 1 at step 0, 0 at step n
   * @param z the batch at time t; not to be changed
   */
  void reached(int step, double t, INDArray z);
}
