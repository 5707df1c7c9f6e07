package org.meanflow.examples.bench;

import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/** Watches how much of the machine other processes use: a figure taken beside them is no figure. */
final class OtherProcesses {
  private static final Path TOTALS = Path.of("/proc/stat");
  private static final double TICKS_PER_SECOND = 100; // USER_HZ of all Linux systems with a JDK
  // Columns of the line: its name, user, nice, system, idle, waiting for I/O, two of interrupts,
  // stolen.
  private static final int IDLE = 4;
  private static final int WAITING = 5;

  /** The last column of its own: guests' time is contained in the first two. */
  private static final int LAST = 8;

  private final long start = System.nanoTime();
  private final @Nullable Double busyAtStart = busyByOthers();

  /** Cores that others used since this was made, on average; {@code null} where unknown. */
  @Nullable Double cores() {
    Double busy = busyByOthers();
    return busy == null || busyAtStart == null
        ? null
        : Math.max(0, (busy - busyAtStart) / ((System.nanoTime() - start) * 1e-9));
  }

  /** Seconds of work of all cores since the system started, less this process's. */
  private static @Nullable Double busyByOthers() {
    try (Stream<String> lines = Files.lines(TOTALS)) {
      String[] columns = lines.findFirst().orElse("").split(" +");
      double ticks = 0;
      for (int i = 1; i <= LAST; i++) {
        if (i != IDLE && i != WAITING) {
          ticks += Double.parseDouble(columns[i]);
        }
      }
      var system =
          ManagementFactory.getPlatformMXBean(com.sun.management.OperatingSystemMXBean.class);
      return ticks / TICKS_PER_SECOND
          - system.getProcessCpuTime() / (double) TimeUnit.SECONDS.toNanos(1);
    } catch (IOException | NumberFormatException | ArrayIndexOutOfBoundsException e) {
      return null;
    }
  }
}
