package org.meanflow.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.meanflow.train.TinyRun.recipe;
import static org.meanflow.train.TinyRun.trainer;
import static org.meanflow.train.TinyRun.values;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.Consumer;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;
import org.meanflow.train.data.DataOrder;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.recipe.Recipe;
import org.meanflow.train.run.Metrics;
import org.meanflow.train.run.MetricsLog;
import org.meanflow.train.run.RunDirectory;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

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

  /** Something is wrong with the batches of some steps. */
  private static final class Disturbed implements ImageDataset {
    private final TinyRun.Greys data = new TinyRun.Greys(false);
    private final DataOrder order = new DataOrder(1, 20, 6);
    private final Consumer<INDArray> disturbance;
    private final List<Integer> steps;

    /** Each step stands for one time that its batch is read; it is whole when read again. */
    Disturbed(Consumer<INDArray> disturbance, Integer... steps) {
      this.disturbance = disturbance;
      this.steps = new ArrayList<>(List.of(steps));
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
    public synchronized Batch batch(int[] indices, DataType type) {
      Batch batch = data.batch(indices, type);
      for (Integer step : steps) {
        if (Arrays.equals(order.indices(step), indices)) {
          disturbance.accept(batch.x());
          steps.remove(step);
          break;
        }
      }
      return batch;
    }
  }

  private static Disturbed nanAt(Integer... steps) {
    return new Disturbed(x -> x.putScalar(new long[] {1, 0, 3, 3}, Double.NaN), steps);
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
    List<Metrics> metrics = MetricsLog.read(directory.metrics());
    assertThat(metrics).hasSize(6);
    assertThat(metrics.subList(0, 5)).extracting(Metrics::guard).containsOnly("");
    assertThat(metrics.getLast().loss()).isNaN();
    assertThat(metrics.getLast().guard())
        .startsWith("the run ended: step 5: the loss is not finite for sample");
    assertThat(directory.report())
        .content()
        .contains("ended by the guard", "not finite for sample");
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
      assertThat(skipped.guard()).startsWith("skipped: the loss is not finite for sample");
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

  /** Step 4 fails, and is whole when it is read again. */
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
    assertThat(metrics.get(3).guard())
        .startsWith("rolled back: step 4: the loss is not finite")
        .endsWith("going on from step_000003 with 0.5 times the rate");
    assertThat(metrics.stream().filter(each -> !each.guard().isEmpty())).hasSize(1);
    assertThat(Checkpoint.newestWhole(directory)).contains(directory.checkpoint(8));

    // The limit counts across rollbacks and is part of the checkpoints.
    Recipe longer = recipe.with(List.of("run.steps=12"));
    assertThatThrownBy(
            () -> new TrainingRun(longer, directory, nanAt(9), engine).run(directory.checkpoint(8)))
        .isInstanceOf(BadStepException.class)
        .hasMessageContaining("step 9")
        .hasMessageEndingWith("step_000009");
  }

  @Test
  void rollbackBeforeTheFirstCheckpointGoesBackToTheStart() throws IOException {
    Recipe recipe = recipe("guard.onNonFinite=rollback", "run.previewEvery=0");
    RunDirectory directory = directory("early", recipe);
    assertThat(new TrainingRun(recipe, directory, nanAt(1, 1), engine).run(null))
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
            engine, recipe(settings), new Disturbed(x -> x.muli(1e8), 10), GradientReducer.NONE)) {
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

  @Test
  void aGradientThatIsNotFiniteNamesItsParameter() throws IOException {
    try (Trainer trainer = trainer(engine, recipe("flow.loss.p=0"), false)) {
      // u and Δ are about 1e25 and Δ² fits float64, but ∂loss/∂u times the weights exceeds float32.
      ParameterStore parameters = trainer.parameters();
      for (Parameter each : parameters.layout().parameters()) {
        if (each.name().equals("final_layer.linear.weight")) {
          parameters.write(each, Nd4j.valueArrayOf(each.shape().clone(), 1e25));
        }
      }
      float[] before = values(parameters);
      assertThatThrownBy(trainer::step)
          .isInstanceOf(BadStepException.class)
          .hasMessageMatching(
              "step 0: the gradient is not finite, first in [a-z_A-Z0-9.]+; the largest error has"
                  + " sample \\d+ of the data; .*");
      assertThat(values(parameters)).isEqualTo(before);
    }
  }

  /** Links to nowhere, in the place of the folder in which a checkpoint is put together. */
  private static void block(RunDirectory directory, long... steps) throws IOException {
    for (long step : steps) {
      Path folder = directory.checkpoint(step);
      Files.createSymbolicLink(
          folder.resolveSibling("." + folder.getFileName() + ".incomplete"),
          directory.root().resolve("nowhere/at all"));
    }
  }

  @Test
  @EnabledOnOs({OS.LINUX, OS.MAC})
  void aSaveThatFailsStopsTheRun() throws IOException {
    Recipe recipe = recipe("run.checkpointEvery=2", "run.previewEvery=0");
    RunDirectory directory = directory("full", recipe);
    block(directory, 4);
    assertThatThrownBy(
            () -> new TrainingRun(recipe, directory, new TinyRun.Greys(false), engine).run(null))
        .isInstanceOf(IOException.class)
        .hasMessageStartingWith("checkpoint not written: ")
        .hasMessageContaining("the last good checkpoint is " + directory.checkpoint(2))
        .hasMessageEndingWith("make room and go on with --resume");
    assertThat(Checkpoint.newestWhole(directory)).contains(directory.checkpoint(2));
    Files.delete(directory.checkpoints().resolve(".step_000004.incomplete"));
    assertThat(
            new TrainingRun(recipe, directory, new TinyRun.Greys(false), engine)
                .run(directory.checkpoint(2)))
        .isEqualTo(TrainingRun.Outcome.FINISHED);
    assertThat(MetricsLog.read(directory.metrics())).hasSize(8);
  }

  @Test
  @EnabledOnOs({OS.LINUX, OS.MAC})
  void aSaveThatFailsIsPassedOverIfTheRecipeSaysSo() throws IOException {
    Recipe recipe = recipe("run.checkpointEvery=2", "run.onSaveFailure=continue");
    RunDirectory directory = directory("full", recipe);
    block(directory, 4);
    Files.createDirectories(directory.sample(4).resolve("in the way"));
    assertThat(new TrainingRun(recipe, directory, new TinyRun.Greys(false), engine).run(null))
        .isEqualTo(TrainingRun.Outcome.FINISHED);
    assertThat(directory.newestCheckpoints())
        .containsExactly(directory.checkpoint(8), directory.checkpoint(6));
    assertThat(MetricsLog.read(directory.metrics())).hasSize(8);

    RunDirectory again = directory("full at the end", recipe);
    block(again, 4, 8);
    assertThatThrownBy(
            () -> new TrainingRun(recipe, again, new TinyRun.Greys(false), engine).run(null))
        .as("the end of a run must be saved")
        .isInstanceOf(IOException.class)
        .hasMessageContaining("the last good checkpoint is " + again.checkpoint(6));
  }
}
