package org.meanflow.train;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.Locale;
import java.util.stream.IntStream;
import me.tongfei.progressbar.ProgressBar;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.dit.DiT;
import org.meanflow.nn.dit.DiTConfig;
import org.meanflow.nn.engine.Engine;
import org.meanflow.sample.ImageGrid;
import org.meanflow.sample.MeanFlowSampler;
import org.meanflow.sample.ProgressListener;
import org.meanflow.sample.SamplingPipeline;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.recipe.Recipe;
import org.meanflow.train.run.Metrics;
import org.meanflow.train.run.RunDirectory;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Trains by a recipe in a run directory: metrics of every step, preview grids and checkpoints on
 * the way. When the process is asked to end, the state is saved first.
 */
public final class TrainingRun {
  private static final Logger log = LoggerFactory.getLogger(TrainingRun.class);
  private static final long PREVIEW_SEED = 0;
  private static final int PREVIEW_ROWS = 8;
  private static final int UNLABELLED_COLUMNS = 8;
  private static final int PREVIEW_BATCH = 40;
  private static final int PREVIEW_SCALE = 2;

  private final Recipe recipe;
  private final RunDirectory directory;
  private final ImageDataset data;
  private final Engine engine;
  private final DiTConfig model;

  /** How a run ended. */
  public enum Outcome {
    /** All steps were taken. */
    FINISHED,
    /** The process was asked to end; the state is saved. */
    INTERRUPTED
  }

  /**
   * Prepares a run.
   *
   * @param recipe what to do
   * @param directory where to put the results
   * @param data what to train on, as {@link Recipe#dataset} reads it
   * @param engine computes; stays the caller's to close
   */
  public TrainingRun(Recipe recipe, RunDirectory directory, ImageDataset data, Engine engine) {
    this.recipe = recipe;
    this.directory = directory;
    this.data = data;
    this.engine = engine;
    this.model = recipe.dit();
  }

  /**
   * Trains until the recipe's number of steps is reached or the process is asked to end.
   *
   * @param checkpoint the checkpoint to go on from; {@code null} to start anew
   * @return how it ended
   * @throws IOException if a result cannot be written or the checkpoint cannot be read
   * @throws NonFiniteException if the loss or the gradient is not finite
   */
  public Outcome run(@Nullable Path checkpoint) throws IOException {
    long steps = recipe.run().steps();
    try (Trainer trainer = new Trainer(engine, new DiT(model), data, settings())) {
      if (checkpoint != null) {
        Checkpoint.read(checkpoint, trainer);
        directory.writeConfig(recipe); // it may have other values than when the run began
      }
      log.info("{} of {} steps to go in {}", steps - trainer.stepsTaken(), steps, directory.root());
      try (StopRequest stop = new StopRequest();
          RunLog runLog = RunLog.resume(directory, trainer.stepsTaken());
          ProgressBar bar = Progress.bar("training", trainer.stepsTaken(), steps)) {
        while (trainer.stepsTaken() < steps && !stop.requested()) {
          long start = System.nanoTime();
          StepReport report = trainer.step();
          Metrics metrics = metrics(report, (System.nanoTime() - start) * 1e-9);
          runLog.append(metrics);
          long done = trainer.stepsTaken();
          bar.stepTo(done);
          bar.setExtraMessage(message(metrics));
          boolean previewDue = isDue(done, recipe.run().previewEvery()) && done < steps;
          boolean checkpointDue = isDue(done, recipe.run().checkpointEvery()) && done < steps;
          if (previewDue) {
            preview(trainer, runLog);
          }
          if (checkpointDue) {
            save(trainer);
          }
          if (previewDue || checkpointDue) {
            runLog.report();
          }
        }
        return finish(trainer, runLog, trainer.stepsTaken() < steps);
      } catch (NonFiniteException e) {
        directory
            .newestCheckpoint()
            .ifPresent(last -> log.error("the last good state is {}", last));
        throw e;
      }
    }
  }

  private static String message(Metrics metrics) {
    return String.format(
        Locale.ROOT,
        " loss %.4f mse %.4f lr %.1e %.0f img/s",
        metrics.loss(),
        metrics.mse(),
        metrics.lr(),
        metrics.imagesPerSecond());
  }

  private Outcome finish(Trainer trainer, RunLog runLog, boolean interrupted) throws IOException {
    save(trainer);
    if (interrupted) {
      runLog.report();
      log.info(
          "interrupted after {} steps and saved; go on with: ./meanflow train --resume {}",
          trainer.stepsTaken(),
          directory.root());
      return Outcome.INTERRUPTED;
    }
    if (!Files.exists(directory.sample(trainer.stepsTaken()))) {
      preview(trainer, runLog);
    }
    runLog.report();
    log.info("finished; the run is in {}", directory.root());
    return Outcome.FINISHED;
  }

  private Trainer.Settings settings() {
    return new Trainer.Settings(
        recipe::objective,
        recipe.adamW(),
        recipe.learningRate(),
        recipe.average(),
        recipe.run().batch(),
        recipe.run().seed());
  }

  private Metrics metrics(StepReport report, double seconds) {
    return new Metrics(
        report.step() + 1,
        report.loss(),
        report.meanSquaredError(),
        report.rate(),
        report.gradientNorm(),
        1 / seconds,
        recipe.run().batch() / seconds,
        report.epoch(),
        Instant.now());
  }

  private static boolean isDue(long done, long every) {
    return every > 0 && done % every == 0;
  }

  private void save(Trainer trainer) throws IOException {
    Path folder = directory.checkpoint(trainer.stepsTaken());
    Checkpoint.write(folder, trainer, recipe.toYaml());
    directory.keepCheckpoints(recipe.run().keepCheckpoints());
  }

  /** One-step samples from the moving average, from the same noise each time. */
  private void preview(Trainer trainer, RunLog runLog) throws IOException {
    int columns = model.classes() > 0 ? model.classes() : UNLABELLED_COLUMNS;
    int[] labels = model.classes() > 0 ? IntStream.range(0, model.classes()).toArray() : null;
    SamplingPipeline pipeline =
        new SamplingPipeline(
            trainer.averagedField(),
            data.imageShape(),
            MeanFlowSampler.oneStep(),
            PREVIEW_BATCH,
            engine.precision().dataType());
    try {
      INDArray images =
          pipeline.generate(columns * PREVIEW_ROWS, labels, PREVIEW_SEED, ProgressListener.NONE);
      new ImageGrid(columns, 2, PREVIEW_SCALE)
          .writePng(directory.sample(trainer.stepsTaken()), images);
      runLog.sampled(trainer.stepsTaken());
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }
}
