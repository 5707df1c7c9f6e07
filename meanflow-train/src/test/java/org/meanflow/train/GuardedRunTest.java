package org.meanflow.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.meanflow.train.TinyRun.recipe;
import static org.meanflow.train.TinyRun.trainer;
import static org.meanflow.train.TinyRun.values;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.recipe.Recipe;
import org.meanflow.train.run.Metrics;
import org.meanflow.train.run.MetricsLog;
import org.meanflow.train.run.RunDirectory;
import org.nd4j.linalg.api.buffer.DataType;

/** Whole runs in which something goes wrong. */
class GuardedRunTest {
  private static Engine engine;

  @TempDir Path folder;

  @BeforeAll
  static void start() {
    engine = Engines.create("nd4j", Precision.FP32);
  }

  @AfterAll
  static void stop() {
    engine.close();
  }

  /** Does something when a batch is asked for: the n-th, counted from 0. */
  private static final class Disturbed implements ImageDataset {
    private final ImageDataset data = new TinyRun.Greys(false);
    private final Disturbance disturbance;
    private int asked;

    @FunctionalInterface
    interface Disturbance {
      void at(int request, Batch batch) throws IOException;
    }

    Disturbed(Disturbance disturbance) {
      this.disturbance = disturbance;
    }

    @Override
    public int size() {
      return data.size();
    }

    @Override
    public int classes() {
      return data.classes();
    }

    @Override
    public long[] imageShape() {
      return data.imageShape();
    }

    @Override
    public Batch batch(int[] indices, DataType type) {
      Batch batch = data.batch(indices, type);
      try {
        disturbance.at(asked++, batch);
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
      return batch;
    }
  }

  private static Disturbed nanAt(int... requests) {
    return new Disturbed(
        (request, batch) -> {
          for (int each : requests) {
            if (request == each) {
              batch.x().putScalar(new long[] {1, 0, 3, 3}, Double.NaN);
            }
          }
        });
  }

  private RunDirectory directory(String name, Recipe recipe) throws IOException {
    return RunDirectory.create(folder.resolve(name), recipe);
  }

  @Test
  void stopNamesStepSampleLayerAndLastCheckpoint() throws IOException {
    Recipe recipe = recipe("run.checkpointEvery=3");
    RunDirectory directory = directory("stop", recipe);
    assertThatThrownBy(() -> new TrainingRun(recipe, directory, nanAt(5), engine).run(null))
        .isInstanceOf(BadStepException.class)
        .hasMessageMatching(
            "step 5: the loss is not finite for sample \\d+ of the data, first in x_embedder"
                + " \\(Linear\\); .* the step was not applied; the last good checkpoint is .*"
                + "step_000003");
    assertThat(MetricsLog.read(directory.metrics())).hasSize(5);
  }

  @Test
  void skippedStepsChangeNothing() throws IOException {
    Recipe recipe = recipe("guard.onNonFinite=skip", "guard.limit=2");
    try (Trainer skipping = trainer(engine, recipe, nanAt(1, 3, 6), GradientReducer.NONE);
        Trainer untroubled = trainer(engine, recipe, false)) {
      skipping.step();
      float[] before = values(skipping.parameters());
      float[] average = values(skipping.average());
      StepReport skipped = skipping.step();
      assertThat(skipped.loss()).isNaN();
      assertThat(values(skipping.parameters())).isEqualTo(before);
      assertThat(values(skipping.average())).isEqualTo(average);
      assertThat(skipping.stepsTaken()).isEqualTo(2);
      skipping.step();
      assertThat(values(skipping.parameters())).isNotEqualTo(before);
      for (int step = 3; step < 6; step++) {
        skipping.step();
      }
      assertThatThrownBy(skipping::step).isInstanceOf(BadStepException.class);
      assertThat(skipping.guard().skipped()).isEqualTo(2);
      untroubled.step();
      assertThat(values(untroubled.parameters())).isEqualTo(before);
    }
  }

  /** Requests: 0…4 are steps 0…4, of which 4 fails; then 3, 4, … again from the checkpoint. */
  @Test
  void rollbackGoesOnFromTheLastCheckpointWithASmallerRate() throws IOException {
    String[] settings = {
      "guard.onNonFinite=rollback", "guard.limit=1", "run.checkpointEvery=3",
      "schedule.kind=constant", "schedule.warmupSteps=0", "run.previewEvery=0"
    };
    Recipe recipe = recipe(settings);
    RunDirectory directory = directory("rollback", recipe);
    assertThat(new TrainingRun(recipe, directory, nanAt(4), engine).run(null))
        .isEqualTo(TrainingRun.Outcome.FINISHED);
    List<Metrics> metrics = MetricsLog.read(directory.metrics());
    assertThat(metrics.stream().map(Metrics::step)).containsExactly(1L, 2L, 3L, 4L, 5L, 6L, 7L, 8L);
    double rate = recipe.optimizer().rate();
    assertThat(metrics.stream().map(Metrics::lr))
        .containsExactly(rate, rate, rate, rate / 2, rate / 2, rate / 2, rate / 2, rate / 2);
    assertThat(Checkpoint.newestWhole(directory)).contains(directory.checkpoint(8));

    // The limit counts across rollbacks and is part of the checkpoints.
    Recipe longer = recipe.with(List.of("run.steps=12"));
    assertThatThrownBy(
            () -> new TrainingRun(longer, directory, nanAt(1), engine).run(directory.checkpoint(8)))
        .isInstanceOf(BadStepException.class)
        .hasMessageContaining("step 9")
        .hasMessageEndingWith("step_000009");
  }

  @Test
  void rollbackBeforeTheFirstCheckpointGoesBackToTheStart() throws IOException {
    Recipe recipe = recipe("guard.onNonFinite=rollback", "run.previewEvery=0");
    RunDirectory directory = directory("early", recipe);
    assertThat(new TrainingRun(recipe, directory, nanAt(1, 3), engine).run(null))
        .isEqualTo(TrainingRun.Outcome.FINISHED);
    assertThat(MetricsLog.read(directory.metrics())).hasSize(8);
    assertThat(directory.checkpoint(8).resolve("state.json"))
        .content()
        .contains("\"refused\" : 2", "\"rateFactor\" : 0.25");
  }

  @Test
  void aSpikeIsRefusedWhereAThresholdIsSet() throws IOException {
    String[] settings = {
      "guard.onNonFinite=skip", "guard.window=8", "run.steps=12", "guard.spikeThreshold=50"
    };
    try (Trainer trainer =
        trainer(
            engine,
            recipe(settings),
            new Disturbed(
                (request, batch) -> {
                  if (request == 10) {
                    batch.x().muli(1e8);
                  }
                }),
            GradientReducer.NONE)) {
      for (int step = 0; step < 10; step++) {
        trainer.step();
      }
      float[] before = values(trainer.parameters());
      trainer.step();
      assertThat(trainer.guard().skipped()).isEqualTo(1);
      assertThat(values(trainer.parameters())).isEqualTo(before);
      trainer.step();
      assertThat(values(trainer.parameters())).isNotEqualTo(before);
    }
  }

  /** The folder of the checkpoints becomes a file; before the end it is a folder again. */
  private TrainingRun disturbedAt(int blocked, int freed, RunDirectory directory, Recipe recipe) {
    Path aside = folder.resolve("aside");
    return new TrainingRun(
        recipe,
        directory,
        new Disturbed(
            (request, batch) -> {
              if (request == blocked) {
                Files.move(directory.checkpoints(), aside);
                Files.writeString(directory.checkpoints(), "in the way");
              } else if (request == freed) {
                Files.delete(directory.checkpoints());
                Files.move(aside, directory.checkpoints());
              }
            }),
        engine);
  }

  @Test
  void aSaveThatFailsStopsTheRun() throws IOException {
    Recipe recipe = recipe("run.checkpointEvery=2", "run.previewEvery=0");
    RunDirectory directory = directory("full", recipe);
    assertThatThrownBy(() -> disturbedAt(3, 99, directory, recipe).run(null))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("checkpoint");
    Files.delete(directory.checkpoints());
    Files.move(folder.resolve("aside"), directory.checkpoints());
    assertThat(Checkpoint.newestWhole(directory)).contains(directory.checkpoint(2));
    assertThat(
            new TrainingRun(recipe, directory, new TinyRun.Greys(false), engine)
                .run(directory.checkpoint(2)))
        .isEqualTo(TrainingRun.Outcome.FINISHED);
    assertThat(MetricsLog.read(directory.metrics())).hasSize(8);
  }

  @Test
  void aSaveThatFailsIsPassedOverIfTheRecipeSaysSo() throws IOException {
    Recipe recipe =
        recipe("run.checkpointEvery=2", "run.previewEvery=0", "run.onSaveFailure=continue");
    RunDirectory directory = directory("full", recipe);
    assertThat(disturbedAt(3, 5, directory, recipe).run(null))
        .isEqualTo(TrainingRun.Outcome.FINISHED);
    assertThat(directory.newestCheckpoints())
        .containsExactly(directory.checkpoint(8), directory.checkpoint(6));
    assertThat(MetricsLog.read(directory.metrics())).hasSize(8);

    RunDirectory again = directory("never free", recipe);
    assertThatThrownBy(() -> disturbedAt(3, 99, again, recipe).run(null))
        .as("the end of a run must be saved")
        .isInstanceOf(IOException.class);
  }
}
