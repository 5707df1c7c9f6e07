package org.meanflow.examples.bench;

import java.time.Duration;
import java.util.Arrays;

/**
 * How long repetitions took.
 *
 * @param sorted milliseconds, ascending; at least one
 */
record Timings(double[] sorted) {
  private static final Duration WARM_UP = Duration.ofSeconds(20);
  private static final int MIN_WARM_UP = 3;
  private static final Duration MEASURED = Duration.ofSeconds(10);

  /**
   * Does something that is not timed: compiled code and reused memory are what a long run has.
   *
   * @param repetitions how often; 0 for twenty seconds and at least three times
   */
  static void warmUp(Runnable work, int repetitions) {
    long end = System.nanoTime() + WARM_UP.toNanos();
    for (int done = 0;
        repetitions > 0 ? done < repetitions : done < MIN_WARM_UP || System.nanoTime() - end < 0;
        done++) {
      work.run();
    }
  }

  /**
   * Times repetitions.
   *
   * @param repetitions how many; 0 for about ten seconds, between 5 and 100
   */
  static Timings measure(Runnable work, int repetitions) {
    int count =
        repetitions > 0 ? repetitions : (int) Math.clamp(MEASURED.toMillis() / time(work), 5, 100);
    double[] times = new double[count];
    for (int i = 0; i < count; i++) {
      times[i] = time(work);
    }
    return of(times);
  }

  static Timings of(double... milliseconds) {
    double[] sorted = milliseconds.clone();
    Arrays.sort(sorted);
    return new Timings(sorted);
  }

  double median() {
    return (sorted[(sorted.length - 1) / 2] + sorted[sorted.length / 2]) / 2;
  }

  double min() {
    return sorted[0];
  }

  /** The time that nine of ten repetitions did not exceed. */
  double p90() {
    return sorted[(int) Math.ceil(0.9 * sorted.length) - 1];
  }

  int count() {
    return sorted.length;
  }

  static double time(Runnable work) {
    long start = System.nanoTime();
    work.run();
    return (System.nanoTime() - start) * 1e-6;
  }
}
