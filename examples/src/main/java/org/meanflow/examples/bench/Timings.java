package org.meanflow.examples.bench;

import java.time.Duration;
import java.util.Arrays;

/**
 * How long repetitions took.
 *
 * @param sorted milliseconds, ascending; at least one
 */
record Timings(double[] sorted) {

  /**
   * Times repetitions, after others that are not counted: compiled code and reused memory are what
   * a long run has.
   *
   * @param warmup repetitions beforehand; 0 for at least three and five seconds
   * @param iterations repetitions counted; 0 for about ten seconds, between 5 and 100
   */
  static Timings measure(Runnable work, int warmup, int iterations) {
    long start = System.nanoTime();
    int done = 0;
    while (warmup > 0
        ? done < warmup
        : done < 3 || System.nanoTime() - start < Duration.ofSeconds(5).toNanos()) {
      work.run();
      done++;
    }
    int count = iterations;
    if (count == 0) {
      double seconds = time(work) * 1e-3;
      count = (int) Math.clamp(10 / seconds, 5, 100);
    }
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
