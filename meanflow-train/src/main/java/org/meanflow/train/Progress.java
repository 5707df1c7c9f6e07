package org.meanflow.train;

import java.io.Console;
import java.time.Duration;
import java.util.Locale;
import java.util.function.Consumer;
import me.tongfei.progressbar.ConsoleProgressBarConsumer;
import me.tongfei.progressbar.DelegatingProgressBarConsumer;
import me.tongfei.progressbar.ProgressBar;
import me.tongfei.progressbar.ProgressBarBuilder;
import me.tongfei.progressbar.ProgressBarStyle;
import me.tongfei.progressbar.ProgressState;

/** Progress of long work: a bar on a terminal, a line now and then elsewhere. */
public final class Progress {
  private static final int TERMINAL_INTERVAL_MS = 200;
  private static final int LOG_INTERVAL_MS = 10_000;

  private Progress() {}

  /**
   * A bar on standard error with count, rate and remaining time.
   *
   * @param task what is being done
   * @param total how many steps it takes, ≥ 0
   * @return the bar; close it when done
   */
  public static ProgressBar bar(String task, long total) {
    return bar(task, 0, total);
  }

  /**
   * The same for work of which a part was done earlier.
   *
   * @param task what is being done
   * @param done how many steps were done earlier, ≥ 0
   * @param total how many steps it takes in all, ≥ 0
   * @return the bar; close it when done
   */
  @SuppressWarnings("SystemConsoleNull") // it may be null where there is no terminal at all
  public static ProgressBar bar(String task, long done, long total) {
    Console console = System.console();
    boolean terminal = console != null && console.isTerminal();
    ProgressBarBuilder builder =
        new ProgressBarBuilder()
            .setTaskName(task)
            .setInitialMax(total)
            .startsFrom(done, Duration.ZERO)
            .setStyle(ProgressBarStyle.ASCII)
            .showSpeed();
    if (terminal) {
      builder
          .setUpdateIntervalMillis(TERMINAL_INTERVAL_MS)
          .setConsumer(new ConsoleProgressBarConsumer(System.err));
    } else {
      builder
          .setUpdateIntervalMillis(LOG_INTERVAL_MS)
          .setRenderer((state, width) -> line(state))
          .setConsumer(new DelegatingProgressBarConsumer(new Lines()));
    }
    return builder.build();
  }

  private static String line(ProgressState state) {
    long passed = state.getElapsedAfterStart().toMillis();
    long done = state.getCurrent() - state.getStart();
    long left = state.getMax() - state.getCurrent();
    return String.format(
        Locale.ROOT,
        "%s: %d of %d, %.4g/s, %s%s",
        state.getTaskName(),
        state.getCurrent(),
        state.getMax(),
        passed == 0 ? 0 : 1e3 * done / passed,
        done == 0 || left == 0
            ? clock(passed) + " passed"
            : clock((long) ((double) passed / done * left)) + " to go",
        state.getExtraMessage().isBlank() ? "" : ", " + state.getExtraMessage().strip());
  }

  private static String clock(long milliseconds) {
    Duration time = Duration.ofMillis(milliseconds);
    return String.format(
        Locale.ROOT, "%d:%02d:%02d", time.toHours(), time.toMinutesPart(), time.toSecondsPart());
  }

  /** The last line comes twice, from the last step and from the end of the bar. */
  private static final class Lines implements Consumer<String> {
    private String last = "";

    @Override
    public void accept(String line) {
      if (!line.equals(last)) {
        System.err.println(line);
      }
      last = line;
    }
  }
}
