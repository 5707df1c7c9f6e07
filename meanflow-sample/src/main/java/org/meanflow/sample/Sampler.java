package org.meanflow.sample;

import org.jspecify.annotations.Nullable;
import org.meanflow.core.field.AverageVelocity;
import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * Carries noise (t = 1) to data (t = 0) along a grid of times: a rule for one step, and how many
 * evaluations of the field it takes. Nothing is clipped, so results may leave [−1, 1].
 */
public interface Sampler {

  /** {@return the times at which the sampler stops} */
  TimeGrid times();

  /** {@return how many evaluations of the field a sample costs (NFE)} */
  int evaluations();

  /**
   * One step from time t to time r.
   *
   * @param field the average velocity u(z, r, t | c)
   * @param z the batch at time t, shape {@code [batch, ...]}; not changed
   * @param t current time, r &lt; t ≤ 1
   * @param r next time, ≥ 0
   * @param labels class of each sample, or {@code null} if none has one
   * @return the batch at time r, a new array of the shape and data type of {@code z}
   */
  INDArray step(AverageVelocity field, INDArray z, double t, double r, int @Nullable [] labels);

  /**
   * Draws one sample for each row of noise.
   *
   * @param field the average velocity u(z, r, t | c)
   * @param noise z at t = 1, standard normal, shape {@code [batch, ...]}; not changed
   * @param labels class of each sample, or {@code null} if none has one
   * @return the samples, a new array of the shape and data type of {@code noise}
   * @throws IllegalArgumentException if there is not one label for each sample
   */
  default INDArray sample(AverageVelocity field, INDArray noise, int @Nullable [] labels) {
    return sample(field, noise, labels, StepListener.NONE);
  }

  /**
   * {@link #sample(AverageVelocity, INDArray, int[])}, watched.
   *
   * @param field the average velocity u(z, r, t | c)
   * @param noise z at t = 1, standard normal, shape {@code [batch, ...]}; not changed
   * @param labels class of each sample, or {@code null} if none has one
   * @param listener told of the noise and of every step
   * @return the samples, a new array of the shape and data type of {@code noise}
   * @throws IllegalArgumentException if there is not one label for each sample
   */
  default INDArray sample(
      AverageVelocity field, INDArray noise, int @Nullable [] labels, StepListener listener) {
    if (labels != null && labels.length != noise.size(0)) {
      throw new IllegalArgumentException(
          "labels must be one for each of the %d samples, got %d"
              .formatted(noise.size(0), labels.length));
    }
    TimeGrid times = times();
    INDArray z = noise;
    listener.reached(0, times.at(0), z);
    for (int i = 0; i < times.steps(); i++) {
      z = step(field, z, times.at(i), times.at(i + 1), labels);
      listener.reached(i + 1, times.at(i + 1), z);
    }
    return z;
  }
}
