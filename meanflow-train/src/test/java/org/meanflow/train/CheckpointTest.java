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
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.dit.DiT;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.weights.Weights;
import org.meanflow.train.recipe.Recipe;
import org.meanflow.train.run.RunDirectory;

class CheckpointTest {
  private static Engine engine;

  @TempDir Path folder;
  private Recipe recipe;
  private RunDirectory run;

  @BeforeAll
  static void start() {
    engine = Engines.create("nd4j", Precision.FP32);
  }

  @AfterAll
  static void stop() {
    engine.close();
  }

  @BeforeEach
  void trainToThree() throws IOException {
    recipe = recipe("ema.decay=[0.9, 0.9999]");
    run = RunDirectory.create(folder.resolve("run"), recipe);
    try (Trainer trainer = trainer(engine, recipe, false)) {
      for (int step = 1; step <= 3; step++) {
        trainer.step();
        Checkpoint.write(run.checkpoint(step), trainer, recipe.toYaml());
      }
    }
  }

  private static List<Path> files(Path checkpoint) throws IOException {
    try (Stream<Path> files = Files.list(checkpoint)) {
      return files.sorted().toList();
    }
  }

  @Test
  void aCheckpointHoldsAllThatARunNeeds() throws IOException {
    assertThat(files(run.checkpoint(3)).stream().map(file -> file.getFileName().toString()))
        .containsExactly(
            "checksums.sha256",
            "config.yaml",
            "ema-0.9999.safetensors",
            "ema.safetensors",
            "model.safetensors",
            "optimizer.safetensors",
            "state.json");
    assertThat(Recipe.load(run.checkpoint(3).resolve("config.yaml").toString())).isEqualTo(recipe);
    assertThat(run.checkpoint(3).resolve("state.json"))
        .content()
        .contains("\"step\" : 3", "\"samplesSeen\" : 18", "\"seed\" : 1", "\"rateFactor\" : 1.0");
    try (Trainer restored = trainer(engine, recipe, false);
        Trainer other = trainer(engine, recipe, false)) {
      Checkpoint.read(run.checkpoint(3), restored);
      for (int step = 0; step < 3; step++) {
        other.step();
      }
      for (int i = 0; i < 2; i++) {
        MovingAverage average = restored.averages().get(i);
        MovingAverage expected = other.averages().get(i);
        assertThat(values(average.values())).isEqualTo(values(expected.values()));
        float[] remainder = engine.read(expected.remainder()).data().asFloat();
        assertThat(remainder).isNotEqualTo(new float[remainder.length]);
        assertThat(engine.read(average.remainder()).data().asFloat()).isEqualTo(remainder);
      }
      assertThat(restored.guard().state()).isEqualTo(other.guard().state());
      assertThat(restored.guard().state().recent()).hasSize(3);
    }
  }

  /** A step of another batch would be at another place in the data. */
  @Test
  void anotherBatchIsRefused() throws IOException {
    try (Trainer larger = trainer(engine, recipe.with(List.of("run.batch=8")), false)) {
      assertThatThrownBy(() -> Checkpoint.read(run.checkpoint(3), larger))
          .isInstanceOf(IOException.class)
          .hasMessage(
              run.checkpoint(3)
                  + ": run.batch must stay 6, as its 3 steps were taken with, got 8; for another"
                  + " one begin a new run with --init");
    }
  }

  /** One bit of each file in turn, at its beginning, middle and end. */
  @Test
  void aFlippedBitAnywhereIsFoundAndTheCheckpointBeforeIsTaken() throws IOException {
    int found = 0;
    try (Trainer trainer = trainer(engine, recipe, false)) {
      for (Path file : files(run.checkpoint(3))) {
        byte[] whole = Files.readAllBytes(file);
        for (int place : new int[] {0, whole.length / 2, whole.length - 2}) {
          byte[] damaged = whole.clone();
          damaged[place] ^= 1;
          Files.write(file, damaged);
          assertThat(Checkpoint.newestWhole(run))
              .as(file + ", byte " + place)
              .contains(run.checkpoint(2));
          assertThatThrownBy(() -> Checkpoint.read(run.checkpoint(3), trainer))
              .isInstanceOf(IOException.class)
              .hasMessageContaining("damaged")
              .hasMessageContaining("step_000003")
              .hasMessageEndingWith("the newest whole checkpoint is " + run.checkpoint(2))
              .hasMessageNotContaining("\n");
          found++;
        }
        Files.write(file, whole);
      }
      assertThat(Checkpoint.newestWhole(run)).contains(run.checkpoint(3));
      Checkpoint.read(run.checkpoint(3), trainer);
    }
    assertThat(found).isEqualTo(21);
  }

  @Test
  void aFileTooFewOrTooManyIsFound() throws IOException {
    for (Path file : files(run.checkpoint(3))) {
      Path hidden = folder.resolve("hidden");
      Files.move(file, hidden);
      assertThat(Checkpoint.newestWhole(run)).as("without " + file).contains(run.checkpoint(2));
      Files.move(hidden, file);
    }
    Path added = Files.writeString(run.checkpoint(3).resolve("ema-0.5.safetensors"), "?");
    assertThatThrownBy(() -> Checkpoint.verify(run.checkpoint(3)))
        .hasMessageContaining(added + ": damaged")
        .hasMessageContaining("says nothing");
    Files.delete(added);
    Checkpoint.verify(run.checkpoint(3));
  }

  @Test
  void whereAllAreDamagedNothingIsTaken() throws IOException {
    for (int step = 1; step <= 3; step++) {
      Files.writeString(run.checkpoint(step).resolve("state.json"), "{}");
    }
    assertThatThrownBy(() -> Checkpoint.newestWhole(run))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("all checkpoints are damaged");
  }

  @Test
  void anAverageThatIsNotThereIsNamed() throws IOException {
    Recipe changed = recipe.with(List.of("ema.decay=[0.9, 0.99]"));
    try (Trainer trainer = trainer(engine, changed, false)) {
      assertThatThrownBy(() -> Checkpoint.read(run.checkpoint(3), trainer))
          .isInstanceOf(IOException.class)
          .hasMessageContaining("ema-0.99.safetensors: there is no such average");
    }
    assertThatThrownBy(() -> TrainedModel.load(run.root(), "ema-0.99", engine))
        .isInstanceOf(IOException.class)
        .hasMessageEndingWith("there are ema, ema-0.9999, model");
    TrainedModel.load(run.root(), "ema-0.9999", engine).close();
  }

  @Test
  void aFailedWriteLeavesWhatWasThere() throws IOException {
    try (Trainer trainer = trainer(engine, recipe, false)) {
      trainer.step();
      Path inTheWay = Files.writeString(folder.resolve("file"), "precious");
      assertThatThrownBy(() -> Checkpoint.write(inTheWay.resolve("step_1"), trainer, ""))
          .isInstanceOf(IOException.class);
      assertThat(inTheWay).hasContent("precious");
      Files.createDirectories(run.checkpoint(4));
      Checkpoint.write(run.checkpoint(4), trainer, recipe.toYaml()); // replaces a damaged one
      assertThat(Checkpoint.newestWhole(run)).contains(run.checkpoint(4));
      assertThat(run.checkpoints().toFile().list()).hasSize(4);
    }
  }

  @Test
  void aRunStartsFromWeightsAndListsWhatDoesNotFit() throws IOException {
    Recipe more = recipe("run.steps=1", "optimizer.rate=1e-30", "run.init='" + run.root() + "'");
    assertThat(start(more, "same")).isEqualTo(TrainingRun.Outcome.FINISHED);
    try (Trainer trained = trainer(engine, recipe, false);
        ParameterStore started = new ParameterStore(engine, new DiT(recipe.dit()).parameters())) {
      Checkpoint.read(run.checkpoint(3), trained);
      Weights.load(TrainedModel.weights(folder.resolve("same"), "model"), started);
      assertThat(values(started)).isEqualTo(values(trained.average()));
    }
    List<String> deeper = new ArrayList<>(List.of("model.depth=3", "model.classes=4"));
    assertThatThrownBy(() -> start(more.with(deeper), "deeper"))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("ema.safetensors does not fit the model")
        .hasMessageContaining("blocks.2.attn.qkv.weight")
        .hasMessageContaining("y_embedder.embedding.weight is [4, 16] in the file, [5, 16]")
        .hasMessageContaining("--init-partial");
    deeper.add("run.initPartial=true");
    assertThat(start(more.with(deeper), "partly")).isEqualTo(TrainingRun.Outcome.FINISHED);
    assertThatThrownBy(
            () -> start(recipe("model.depth=1", "run.init='" + run.root() + "'"), "less"))
        .hasMessageContaining("unexpected (blocks.1.");
  }

  private TrainingRun.Outcome start(Recipe recipe, String name) throws IOException {
    RunDirectory directory = RunDirectory.create(folder.resolve(name), recipe);
    return new TrainingRun(recipe, directory, new TinyRun.Greys(false), engine).run(null);
  }
}
