package org.meanflow.examples.bench;

import com.sun.management.ThreadMXBean;
import java.lang.management.CompilationMXBean;
import java.lang.management.ManagementFactory;
import java.time.Duration;
import java.util.Arrays;

/**
 * How long repetitions took.
 *
 * @param sorted milliseconds, ascending; at least one
 * @param heap MB that a repetition allocated on the Java heap, all threads together; NaN if unknown
 */
record Timings(double[] sorted, double heap) {
  /** After so long the share of compiling is looked at. */
  private static final Duration WINDOW = Duration.ofSeconds(5);

  private static final int MIN_WINDOWS = 4;
  private static final int MAX_WINDOWS = 12;

  /** The most that the JIT compiler may take of the last window. */
  private static final double COMPILING = 0.03;

  private static final Duration MEASURED = Duration.ofSeconds(10);

  /**
   * Does something that is not timed: compiled code and reused memory are what a long run has.
   *
   * @param repetitions how often; 0 for twenty seconds to a minute, until the JIT compiler, which
   *     takes time from the threads that compute, is nearly at rest
   */
  static void warmUp(Runnable work, int repetitions) {
    for (int i = 0; i < repetitions; i++) {
      work.run();
    }
    boolean compiling = repetitions == 0;
    for (int window = 0; compiling && window < MAX_WINDOWS; window++) {
      long start = System.nanoTime();
      Duration compiled = compiled();
      while (System.nanoTime() - start < WINDOW.toNanos()) {
        work.run();
      }
      double share = (double) compiled().minus(compiled).toNanos() / (System.nanoTime() - start);
      compiling = window + 1 < MIN_WINDOWS || share > COMPILING;
    }
  }

  private static Duration compiled() {
    CompilationMXBean compiler = ManagementFactory.getCompilationMXBean();
    return compiler == null ? Duration.ZERO : Duration.ofMillis(compiler.getTotalCompilationTime());
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
    long allocated = allocated();
    for (int i = 0; i < count; i++) {
      times[i] = time(work);
    }
    double heap = allocated < 0 ? Double.NaN : (allocated() - allocated) * 1e-6 / count;
    return new Timings(of(times).sorted, heap);
  }

  /** Bytes that were allocated on the heap; −1 if the JVM does not count them. */
  private static long allocated() {
    return ManagementFactory.getThreadMXBean() instanceof ThreadMXBean threads
        ? threads.getTotalThreadAllocatedBytes()
        : -1;
  }

  static Timings of(double... milliseconds) {
    double[] sorted = milliseconds.clone();
    Arrays.sort(sorted);
    return new Timings(sorted, Double.NaN);
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
