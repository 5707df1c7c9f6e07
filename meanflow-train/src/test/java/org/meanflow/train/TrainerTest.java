package org.meanflow.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.dit.DiT;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.recipe.Recipe;
import org.meanflow.train.run.MetricsLog;
import org.meanflow.train.run.RunDirectory;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

class TrainerTest {
  private static final List<String> TINY =
      List.of(
          "model.imageSize=8",
          "model.patch=4",
          "flow.guidance.omega=1",
          "model.width=16",
          "model.depth=2",
          "model.heads=2",
          "model.classes=3",
          "model.timeFeatures=8",
          "run.batch=6",
          "run.steps=8",
          "run.previewEvery=4",
          "run.checkpointEvery=4",
          "schedule.warmupSteps=2");

  /** Twenty grey images, the level told by the class; in the second of a batch may be a NaN. */
  private record Greys(boolean broken) implements ImageDataset {
    @Override
    public int size() {
      return 20;
    }

    @Override
    public int classes() {
      return 3;
    }

    @Override
    public long[] imageShape() {
      return new long[] {1, 8, 8};
    }

    @Override
    public Batch batch(int[] indices, DataType type) {
      INDArray x = Nd4j.create(type, indices.length, 1, 8, 8);
      int[] labels = new int[indices.length];
      for (int i = 0; i < labels.length; i++) {
        labels[i] = indices[i] % 3;
        x.slice(i).assign(0.5 * labels[i] - 0.5);
      }
      if (broken) {
        x.putScalar(new long[] {1, 0, 3, 3}, Double.NaN);
      }
      return new Batch(x, labels);
    }
  }

  private static Recipe recipe(String... more) throws IOException {
    return Recipe.load("digits").with(TINY).with(List.of(more));
  }

  private static Trainer trainer(Engine engine, Recipe recipe, boolean broken) {
    return new Trainer(
        engine,
        new DiT(recipe.dit()),
        new Greys(broken),
        new Trainer.Settings(
            recipe::objective,
            recipe.adamW(),
            recipe.learningRate(),
            recipe.average(),
            recipe.run().batch(),
            recipe.run().seed()));
  }

  private static float[] values(ParameterStore store) {
    return store.engine().read(store.values()).data().asFloat();
  }

  @Test
  void aRestoredTrainerGoesOnBitForBit(@TempDir Path folder) throws IOException {
    Recipe recipe = recipe();
    try (Engine engine = Engines.create("nd4j", Precision.FP32);
        Trainer whole = trainer(engine, recipe, false);
        Trainer first = trainer(engine, recipe, false);
        Trainer second = trainer(engine, recipe, false)) {
      for (int i = 0; i < 8; i++) {
        whole.step();
      }
      for (int i = 0; i < 4; i++) {
        first.step();
      }
      Checkpoint.write(folder.resolve("step_000004"), first, recipe.toYaml());
      Checkpoint.read(folder.resolve("step_000004"), second);
      assertThat(second.stepsTaken()).isEqualTo(4);
      for (int i = 0; i < 4; i++) {
        second.step();
      }
      assertThat(values(second.parameters())).isEqualTo(values(whole.parameters()));
      assertThat(values(second.average())).isEqualTo(values(whole.average()));
      assertThat(engine.read(second.firstMoments()).data().asFloat())
          .isEqualTo(engine.read(whole.firstMoments()).data().asFloat());
      assertThat(engine.read(second.secondMoments()).data().asFloat())
          .isEqualTo(engine.read(whole.secondMoments()).data().asFloat());
      assertThat(values(whole.parameters())).isNotEqualTo(values(first.parameters()));
    }
  }

  @Test
  void aNonFiniteLossNamesStepAndLayerAndChangesNothing() throws IOException {
    try (Engine engine = Engines.create("nd4j", Precision.FP32);
        Trainer trainer = trainer(engine, recipe(), true)) {
      float[] before = values(trainer.parameters());
      assertThatThrownBy(trainer::step)
          .isInstanceOf(NonFiniteException.class)
          .hasMessageContaining("step 0")
          .hasMessageContaining("the loss")
          .hasMessageContaining("x_embedder (Linear)");
      assertThat(values(trainer.parameters())).isEqualTo(before);
      assertThat(trainer.stepsTaken()).isZero();
    }
  }

  @Test
  void aBrokenParameterIsTracedToItsLayer() throws IOException {
    try (Engine engine = Engines.create("nd4j", Precision.FP32);
        Trainer trainer = trainer(engine, recipe(), false)) {
      trainer.step();
      Parameter weight =
          trainer.parameters().layout().parameters().stream()
              .filter(parameter -> parameter.name().equals("blocks.1.mlp.fc1.weight"))
              .findFirst()
              .orElseThrow();
      INDArray broken = trainer.parameters().read(weight);
      broken.putScalar(3, Float.POSITIVE_INFINITY);
      trainer.parameters().write(weight, broken);
      assertThatThrownBy(trainer::step)
          .isInstanceOf(NonFiniteException.class)
          .hasMessageContaining("step 1")
          .hasMessageContaining("blocks.1.mlp (Linear)");
    }
  }

  @Test
  void theErrorFalls() throws IOException {
    try (Engine engine = Engines.create("nd4j", Precision.FP32);
        Trainer trainer =
            trainer(
                engine, recipe("run.steps=150", "optimizer.rate=3e-3", "run.batch=20"), false)) {
      double first = trainer.step().meanSquaredError();
      double last = 0;
      for (int i = 1; i < 150; i++) {
        last = trainer.step().meanSquaredError();
      }
      // u starts at 0, and v = ε − x has mean square 1 + 1/6. As the class tells x, and z then
      // tells ε, a
      // perfect u has no error.
      assertThat(first).isBetween(0.9, 1.4);
      assertThat(last).isLessThan(0.6 * first);
    }
  }

  @Test
  void aRunLeavesPicturesMetricsAndCheckpointsAndCanBeContinued(@TempDir Path folder)
      throws IOException {
    Path root = folder.resolve("run");
    Recipe recipe = recipe();
    try (Engine engine = Engines.create("nd4j", Precision.FP32)) {
      RunDirectory directory = RunDirectory.create(root, recipe);
      TrainingRun.Outcome outcome =
          new TrainingRun(recipe, directory, new Greys(false), engine).run(null);
      assertThat(outcome).isEqualTo(TrainingRun.Outcome.FINISHED);
      assertThat(directory.sample(4)).isRegularFile();
      assertThat(directory.sample(8)).isRegularFile();
      assertThat(MetricsLog.read(directory.metrics())).hasSize(8);
      assertThat(directory.newestCheckpoint()).contains(directory.checkpoint(8));

      Recipe longer = recipe("run.steps=10");
      new TrainingRun(longer, directory, new Greys(false), engine)
          .run(directory.newestCheckpoint().orElseThrow());
      assertThat(MetricsLog.read(directory.metrics())).hasSize(10);
      assertThat(directory.newestCheckpoint()).contains(directory.checkpoint(10));

      try (TrainedModel model = TrainedModel.load(root, engine)) {
        assertThat(model.config()).isEqualTo(recipe.dit());
      }
    }
  }

  @Test
  void aDamagedCheckpointIsRefusedInOneLine(@TempDir Path folder) throws IOException {
    Recipe recipe = recipe();
    Path checkpoint = folder.resolve("step_000001");
    try (Engine engine = Engines.create("nd4j", Precision.FP32);
        Trainer trainer = trainer(engine, recipe, false)) {
      trainer.step();
      Checkpoint.write(checkpoint, trainer, recipe.toYaml());
      byte[] whole = Files.readAllBytes(checkpoint.resolve(Checkpoint.MODEL));
      Files.write(checkpoint.resolve(Checkpoint.MODEL), Arrays.copyOf(whole, whole.length / 2));
      assertThatThrownBy(() -> Checkpoint.read(checkpoint, trainer))
          .isInstanceOf(IOException.class)
          .hasMessageContaining(Checkpoint.MODEL)
          .hasMessageNotContaining("\n");

      Files.write(checkpoint.resolve(Checkpoint.MODEL), whole);
      Recipe wider = recipe("model.width=24");
      try (Trainer other = trainer(engine, wider, false)) {
        assertThatThrownBy(() -> Checkpoint.read(checkpoint, other))
            .isInstanceOf(IOException.class)
            .hasMessageContaining("does not fit the model")
            .hasMessageContaining(
                "x_embedder.proj.weight is [16, 1, 4, 4] in the file, [24, 1, 4, 4]");
      }
    }
  }
}
