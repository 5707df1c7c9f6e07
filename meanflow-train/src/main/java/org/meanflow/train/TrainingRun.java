package org.meanflow.train;

import java.io.Closeable;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.List;
import java.util.Locale;
import java.util.Objects;
import java.util.Optional;
import java.util.stream.IntStream;
import me.tongfei.progressbar.ProgressBar;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.dit.DiT;
import org.meanflow.nn.dit.DiTConfig;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.weights.Weights;
import org.meanflow.sample.ImageGrid;
import org.meanflow.sample.MeanFlowSampler;
import org.meanflow.sample.ProgressListener;
import org.meanflow.sample.SamplingPipeline;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.recipe.Recipe;
import org.meanflow.train.recipe.RunSection;
import org.meanflow.train.run.Environment;
import org.meanflow.train.run.Metrics;
import org.meanflow.train.run.ProcessMemory;
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
  private static final int MOST_COLUMNS = 10;
  private static final int PREVIEW_BATCH = 40;
  private static final int PREVIEW_SCALE = 2;

  /** As many steps as curves need: from then on the run can be looked at. */
  private static final int FIRST_REPORT = 2;

  private final Recipe recipe;
  private final RunDirectory directory;
  private final ImageDataset data;
  private final Devices devices;
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
    this(recipe, directory, data, Devices.of(engine));
  }

  /**
   * Prepares a run on several devices, which each take their part of every batch.
   *
   * @param recipe what to do; the number of devices divides the micro-batches of its batch
   * @param directory where to put the results
   * @param data what to train on, as {@link Recipe#dataset} reads it
   * @param devices compute; stay the caller's to close
   */
  public TrainingRun(Recipe recipe, RunDirectory directory, ImageDataset data, Devices devices) {
    this.recipe = recipe;
    this.directory = directory;
    this.data = data;
    this.devices = devices;
    this.engine = devices.first();
    this.model = recipe.dit();
  }

  /**
   * Trains until the recipe's number of steps is reached or the process is asked to end.
   *
   * @param checkpoint the checkpoint to go on from; {@code null} to start anew
   * @return how it ended
   * @throws IOException if a result cannot be written or the checkpoint cannot be read
   * @throws BadStepException if the guard ends the run
   */
  public Outcome run(@Nullable Path checkpoint) throws IOException {
    try (Closeable _ = directory.lock();
        StopRequest stop = new StopRequest();
        TrainerTeam team = new TrainerTeam(devices, this::trainer)) {
      directory.removeLeftovers();
      directory.writeConfig(recipe); // it may have other values than when the run began
      if (checkpoint != null) {
        team.all(trainer -> read(checkpoint, trainer));
      } else {
        initialize(team);
      }
      noteEnvironment();
      String note = "";
      while (true) {
        try {
          return train(team, stop, note);
        } catch (BadStepException e) {
          note = goBack(team, e);
        }
      }
    }
  }

  private Trainer trainer(Devices.Device device) {
    return new Trainer(device.engine(), new DiT(model), data, settings(), device.reducer());
  }

  private static long read(Path checkpoint, Trainer trainer) throws IOException {
    Checkpoint.read(checkpoint, trainer);
    return trainer.stepsTaken();
  }

  private void initialize(TrainerTeam team) throws IOException {
    String init = recipe.run().init();
    if (init != null) {
      Path file = TrainedModel.weights(Path.of(init), "ema");
      List<String> problems =
          team.all(
              trainer -> {
                List<String> misfits = Weights.loadMatching(file, trainer.parameters());
                trainer.startFromParameters();
                return misfits;
              });
      if (!problems.isEmpty() && !recipe.run().initPartial()) {
        throw new IOException(
            "%s does not fit the model: %s; give --init-partial to start with what fits"
                .formatted(file, String.join("; ", problems)));
      }
      problems.forEach(problem -> log.warn("{}: {}", file, problem));
    }
  }

  private void noteEnvironment() throws IOException {
    Environment now =
        new Environment(
            version(),
            engine.name(),
            engine.precision().name().toLowerCase(Locale.ROOT),
            Runtime.getRuntime().availableProcessors(),
            recipe.run().seed(),
            Runtime.version().toString());
    directory
        .environment()
        .filter(before -> !before.equals(now))
        .ifPresent(
            before -> log.warn("goes on with {}; it ran with {}: bits may differ", now, before));
    directory.writeEnvironment(now);
  }

  /**
   * Goes back to the last checkpoint, with a smaller rate, if that is what the guard wants.
   *
   * @return what to note about it
   */
  private String goBack(TrainerTeam team, BadStepException bad) throws IOException {
    Optional<Path> last = bad.mayRollBack() ? Checkpoint.newestWhole(directory) : Optional.empty();
    if (last.isEmpty()) {
      BadStepException end = new BadStepException(bad, lastGoodState());
      try (RunLog runLog = RunLog.resume(directory, team.first().stepsTaken())) {
        String note = "the run ended: " + end.getMessage();
        runLog.append(Metrics.ended(team.first().stepsTaken() + 1, note));
        runLog.report();
      } catch (IOException e) {
        end.addSuppressed(e);
      }
      throw end;
    }
    Guard.State refused =
        team.all(
            trainer -> {
              Guard.State state = trainer.guard().state();
              read(last.get(), trainer);
              trainer.guard().carryOver(state);
              return state;
            });
    String note =
        "%s; going on from %s with %s times the rate"
            .formatted(bad.getMessage(), last.get().getFileName(), refused.rateFactor());
    log.warn("{}", note);
    return "rolled back: " + note;
  }

  /** Takes steps from where the trainer is. */
  private Outcome train(TrainerTeam team, StopRequest stop, String note) throws IOException {
    Trainer trainer = team.first();
    long steps = recipe.run().steps();
    long start = trainer.stepsTaken();
    log.info("{} of {} steps to go in {}", steps - trainer.stepsTaken(), steps, directory.root());
    System.gc(); // What reading the data took goes back to the system now, not at some later step.
    try (RunLog runLog = RunLog.resume(directory, trainer.stepsTaken());
        ProgressBar bar = Progress.bar("train", trainer.stepsTaken(), steps)) {
      if (start == 0 && !Files.exists(directory.checkpoint(0))) {
        // What does not fit on the disk or into memory is known now, and not after an hour; and
        // there is something to go back to.
        attempt("checkpoint", () -> save(trainer, runLog));
        attempt("samples", () -> preview(trainer, runLog));
      }
      while (trainer.stepsTaken() < steps && !stop.requested()) {
        long startTime = System.nanoTime();
        StepReport report = team.all(Trainer::step);
        double seconds = (System.nanoTime() - startTime) * 1e-9;
        Metrics metrics = metrics(report, seconds, report.step() == start ? note : "");
        attempt("metrics", () -> runLog.append(metrics));
        long done = trainer.stepsTaken();
        bar.stepTo(done);
        bar.setExtraMessage(message(metrics));
        boolean previewDue = isDue(done, recipe.run().previewEvery()) && done < steps;
        boolean checkpointDue = isDue(done, recipe.run().checkpointEvery()) && done < steps;
        if (previewDue) {
          attempt("samples", () -> preview(trainer, runLog));
        }
        if (checkpointDue) {
          attempt("checkpoint", () -> save(trainer, runLog));
        }
        if (previewDue || checkpointDue || done == start + FIRST_REPORT) {
          attempt("report", runLog::report);
        }
      }
      if (trainer.stepsTaken() > start
          || !Files.exists(directory.checkpoint(trainer.stepsTaken()))) {
        require("checkpoint", () -> save(trainer, runLog));
      }
      if (trainer.stepsTaken() == steps && !Files.exists(directory.sample(steps))) {
        attempt("samples", () -> preview(trainer, runLog));
      }
      attempt("report", runLog::report);
    }
    if (trainer.stepsTaken() < steps) {
      log.info(
          "interrupted after {} steps and saved; go on with: ./meanflow train --resume {}",
          trainer.stepsTaken(),
          directory.root());
      return Outcome.INTERRUPTED;
    }
    log.info("finished; the run is in {}", directory.root());
    return Outcome.FINISHED;
  }

  private static String message(Metrics metrics) {
    return String.format(
        Locale.ROOT,
        " loss %.3f lr %.0e %.0f img/s mse %.4f", // 80 columns have room up to mse
        metrics.loss(),
        metrics.lr(),
        metrics.imagesPerSecond(),
        metrics.mse());
  }

  /** Something that writes. */
  @FunctionalInterface
  private interface Output {
    void write() throws IOException;
  }

  /** Writes something that the run can do without, if the recipe says so. */
  private void attempt(String what, Output output) throws IOException {
    if (recipe.run().onSaveFailure() == RunSection.OnSaveFailure.STOP) {
      require(what, output);
      return;
    }
    try {
      output.write();
    } catch (IOException e) {
      log.error("{} not written, the training goes on: {}", what, e.toString());
    }
  }

  private void require(String what, Output output) throws IOException {
    try {
      output.write();
    } catch (IOException e) {
      throw new IOException(
          "%s not written: %s; %s; make room and go on with --resume"
              .formatted(what, e.getMessage(), lastGoodState()),
          e);
    }
  }

  private String lastGoodState() {
    try {
      return Checkpoint.newestWhole(directory)
          .map(good -> "the last good checkpoint is " + good)
          .orElse("there is no checkpoint");
    } catch (IOException e) {
      return "no checkpoint can be read (" + e.getMessage() + ")";
    }
  }

  private Trainer.Settings settings() {
    return new Trainer.Settings(
        recipe::objective,
        recipe.adamW(),
        recipe.learningRate(),
        recipe.averages(),
        recipe.run().batch(),
        recipe.run().accumulate(),
        recipe.guard().config(),
        recipe.run().seed());
  }

  private Metrics metrics(StepReport report, double seconds, String note) {
    return new Metrics(
        report.step() + 1,
        report.loss(),
        report.meanSquaredError(),
        report.rate(),
        report.gradientNorm(),
        1 / seconds,
        recipe.run().batch() / seconds,
        report.dataWait(),
        ProcessMemory.held(),
        report.epoch(),
        note.isEmpty() || report.guard().isEmpty()
            ? note + report.guard()
            : note + "; " + report.guard(),
        Instant.now());
  }

  private static boolean isDue(long done, long every) {
    return every > 0 && done % every == 0;
  }

  private void save(Trainer trainer, RunLog runLog) throws IOException {
    runLog.force(); // no checkpoint is ahead of the metrics
    Path folder = directory.checkpoint(trainer.stepsTaken());
    Checkpoint.write(folder, trainer, recipe.toYaml());
    directory.keepCheckpoints(recipe.run().keepCheckpoints(), recipe.run().keepEvery());
  }

  private static String version() throws IOException {
    try (InputStream resource = TrainingRun.class.getResourceAsStream("version.txt")) {
      byte[] text = Objects.requireNonNull(resource, "no version.txt").readAllBytes();
      return new String(text, StandardCharsets.UTF_8).strip();
    }
  }

  /**
   * One-step samples from the moving average, from the same noise each time, of the first classes.
   * Latents cannot be seen without their decoder.
   */
  private void preview(Trainer trainer, RunLog runLog) throws IOException {
    if (model.channels() != 1 && model.channels() != 3) {
      return;
    }
    int classes = Math.min(model.classes(), MOST_COLUMNS);
    int columns = classes > 0 ? classes : UNLABELLED_COLUMNS;
    int[] labels = classes > 0 ? IntStream.range(0, classes).toArray() : null;
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
