package org.meanflow.train;

import java.awt.AWTError;
import java.io.IOException;
import org.meanflow.train.report.Report;
import org.meanflow.train.run.Metrics;
import org.meanflow.train.run.MetricsLog;
import org.meanflow.train.run.MetricsReader;
import org.meanflow.train.run.RunDirectory;
import org.meanflow.train.run.TensorBoardLog;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** All that a run keeps for those who watch it: metrics, events for TensorBoard, the report. */
final class RunLog implements AutoCloseable {
  private static final Logger log = LoggerFactory.getLogger(RunLog.class);

  private final RunDirectory directory;
  private final MetricsLog metrics;
  private final TensorBoardLog events;
  private final MetricsReader reader;

  private RunLog(RunDirectory directory, MetricsLog metrics, TensorBoardLog events) {
    this.directory = directory;
    this.metrics = metrics;
    this.events = events;
    this.reader = new MetricsReader(directory.metrics());
  }

  /**
   * Begins the log of a run or goes on with it. What it has of later steps is discarded.
   *
   * @param directory the run
   * @param step number of steps done
   * @return the log; the caller closes it
   * @throws IOException if the log cannot be read or written
   */
  static RunLog resume(RunDirectory directory, long step) throws IOException {
    directory.discardSamplesAfter(step);
    MetricsLog metrics = MetricsLog.resume(directory.metrics(), step);
    try {
      return new RunLog(directory, metrics, TensorBoardLog.resume(directory.tensorboard(), step));
    } catch (IOException e) {
      metrics.close();
      throw e;
    }
  }

  /**
   * Writes a record.
   *
   * @param record what a step measured
   * @throws IOException if it cannot be written
   */
  void append(Metrics record) throws IOException {
    metrics.append(record);
    events.append(record);
  }

  /**
   * Forces the records written so far to the disk.
   *
   * @throws IOException if the disk refuses
   */
  void force() throws IOException {
    metrics.force();
    events.force();
  }

  /**
   * Takes note of a grid that was drawn.
   *
   * @param step the step whose {@link RunDirectory#sample} it is
   * @throws IOException if it cannot be read or the log cannot be written
   */
  void sampled(long step) throws IOException {
    events.append("samples", step, directory.sample(step));
  }

  /**
   * Writes the report anew. Where nothing can be drawn, as on a machine without fonts, a warning
   * takes its place.
   *
   * @throws IOException if it cannot be written
   */
  void report() throws IOException {
    try {
      Report.of(directory, reader).write();
    } catch (RuntimeException | LinkageError | AWTError e) {
      log.warn("no report was written, as drawing failed: {}", e.toString());
    }
  }

  @Override
  public void close() throws IOException {
    try (metrics) {
      events.close();
    }
  }
}
