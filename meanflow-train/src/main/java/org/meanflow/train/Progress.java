package org.meanflow.train;

import java.io.Console;
import me.tongfei.progressbar.ConsoleProgressBarConsumer;
import me.tongfei.progressbar.DelegatingProgressBarConsumer;
import me.tongfei.progressbar.ProgressBar;
import me.tongfei.progressbar.ProgressBarBuilder;
import me.tongfei.progressbar.ProgressBarStyle;

/** Progress of long work: a bar on a terminal, a line now and then elsewhere. */
public final class Progress {
  private static final int TERMINAL_INTERVAL_MS = 200;
  private static final int LOG_INTERVAL_MS = 10_000;
  private static final int LOG_WIDTH = 120;

  private Progress() {}

  /**
   * A bar on standard error with count, rate and remaining time.
   *
   * @param task what is being done
   * @param total how many steps it takes, ≥ 0
   * @return the bar; close it when done
   */
  @SuppressWarnings("SystemConsoleNull") // it may be null where there is no terminal at all
  public static ProgressBar bar(String task, long total) {
    Console console = System.console();
    boolean terminal = console != null && console.isTerminal();
    return new ProgressBarBuilder()
        .setTaskName(task)
        .setInitialMax(total)
        .setStyle(ProgressBarStyle.ASCII)
        .showSpeed()
        .setUpdateIntervalMillis(terminal ? TERMINAL_INTERVAL_MS : LOG_INTERVAL_MS)
        .setConsumer(
            terminal
                ? new ConsoleProgressBarConsumer(System.err)
                : new DelegatingProgressBarConsumer(System.err::println, LOG_WIDTH))
        .build();
  }
}
