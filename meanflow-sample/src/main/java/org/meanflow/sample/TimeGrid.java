package org.meanflow.sample;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;
import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * The times at which a sampler stops on its way from noise to data: 1 = t₀ &gt; t₁ &gt; … &gt; tₙ =
 * 0.
 *
 * @param times t₀, …, tₙ, strictly decreasing from exactly 1 to exactly 0
 */
public record TimeGrid(double[] times) {

  /** Checks the times. */
  public TimeGrid {
    times = times.clone();
    boolean valid = times.length >= 2 && times[0] == 1 && times[times.length - 1] == 0;
    for (int i = 1; i < times.length; i++) {
      valid &= times[i] < times[i - 1];
    }
    if (!valid) {
      throw new IllegalArgumentException(
          "times must decrease strictly from 1 to 0, got " + Arrays.toString(times));
    }
  }

  /**
   * A grid of equal steps: tᵢ = 1 − i/n.
   *
   * @param steps n, ≥ 1
   * @return the grid
   */
  public static TimeGrid uniform(int steps) {
    if (steps < 1) {
      throw new IllegalArgumentException("steps must be >= 1, got " + steps);
    }
    double[] times = new double[steps + 1];
    Arrays.setAll(times, i -> 1 - (double) i / steps);
    return new TimeGrid(times);
  }

  /**
   * A grid of given times.
   *
   * @param times strictly decreasing from 1 to 0
   * @return the grid
   */
  public static TimeGrid of(double... times) {
    return new TimeGrid(times);
  }

  /** {@return t₀, …, tₙ; a copy} */
  @Override
  public double[] times() {
    return times.clone();
  }

  /**
   * The time tᵢ.
   *
   * @param i 0 ≤ i ≤ {@link #steps()}
   * @return tᵢ
   */
  public double at(int i) {
    return times[i];
  }

  /** {@return the number of steps n} */
  public int steps() {
    return times.length - 1;
  }

  @Override
  public boolean equals(@Nullable Object other) {
    return other instanceof TimeGrid that && Arrays.equals(times, that.times);
  }

  @Override
  public int hashCode() {
    return Arrays.hashCode(times);
  }

  @Override
  public String toString() {
    return "TimeGrid" + Arrays.toString(times);
  }

  /** One time for each sample of a batch, as fields take it. */
  static double[] forEachOf(INDArray batch, double time) {
    double[] times = new double[Math.toIntExact(batch.size(0))];
    Arrays.fill(times, time);
    return times;
  }
}
