package org.meanflow.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.meanflow.train.TinyRun.recipe;
import static org.meanflow.train.TinyRun.trainer;
import static org.meanflow.train.TinyRun.values;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;
import org.meanflow.train.data.DataOrder;
import org.meanflow.train.recipe.Recipe;
import org.meanflow.train.run.MetricsLog;
import org.meanflow.train.run.RunDirectory;
import org.nd4j.linalg.api.ndarray.INDArray;

class TrainerTest {
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
          .isInstanceOf(BadStepException.class)
          .hasMessageContaining("step 0")
          .hasMessageContaining("the loss")
          .hasMessageContaining("sample " + new DataOrder(1, 20, 6).indices(0)[1] + " of the data")
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
          .isInstanceOf(BadStepException.class)
          .hasMessageContaining("step 1")
          .hasMessageContaining("blocks.1.mlp (FeedForward)");
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
          new TrainingRun(recipe, directory, new TinyRun.Greys(false), engine).run(null);
      assertThat(outcome).isEqualTo(TrainingRun.Outcome.FINISHED);
      assertThat(directory.sample(0)).isRegularFile();
      assertThat(directory.sample(4)).isRegularFile();
      assertThat(directory.sample(8)).isRegularFile();
      assertThat(MetricsLog.read(directory.metrics())).hasSize(8);
      assertThat(directory.newestCheckpoints()).startsWith(directory.checkpoint(8));

      Recipe longer = recipe("run.steps=10");
      new TrainingRun(longer, directory, new TinyRun.Greys(false), engine)
          .run(directory.newestCheckpoints().getFirst());
      assertThat(MetricsLog.read(directory.metrics())).hasSize(10);
      assertThat(directory.newestCheckpoints()).startsWith(directory.checkpoint(10));

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
