package org.meanflow.train.run;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.Closeable;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDateTime;
import java.util.List;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.meanflow.train.recipe.Recipe;
import org.meanflow.train.recipe.RecipeException;

class RunDirectoryTest {
  private static Recipe digits;

  @TempDir Path directory;
  private Path root;

  @BeforeAll
  static void loadARecipe() throws RecipeException {
    digits = Recipe.load("digits");
  }

  @BeforeEach
  void nameTheRoot() {
    root = directory.resolve("runs/first");
  }

  @Test
  void aNewRunHasItsRecipeAndFolders() throws IOException {
    RunDirectory run = RunDirectory.create(root, digits);
    assertThat(root.resolve("samples")).isEmptyDirectory();
    assertThat(root.resolve("checkpoints")).isEmptyDirectory();
    assertThat(root.resolve("config.yaml")).isRegularFile();
    assertThat(run.metrics()).isEqualTo(root.resolve("metrics.jsonl")).doesNotExist();
    assertThat(run.recipe()).isEqualTo(digits);
    assertThat(RunDirectory.open(root).recipe()).isEqualTo(digits);
  }

  @Test
  void namesCarryTheStep() throws IOException {
    RunDirectory run = RunDirectory.create(root, digits);
    assertThat(run.sample(500)).isEqualTo(root.resolve("samples/step_000500.png"));
    assertThat(run.checkpoint(500)).isEqualTo(root.resolve("checkpoints/step_000500"));
    assertThat(run.checkpoint(12_345_678)).isEqualTo(root.resolve("checkpoints/step_12345678"));
    assertThatThrownBy(() -> run.sample(-1)).hasMessage("step must be >= 0, got -1");
  }

  @Test
  void anEmptyFolderWillDo() throws IOException {
    Files.createDirectories(root);
    assertThat(RunDirectory.create(root, digits).root()).isEqualTo(root);
  }

  @Test
  void aRunIsNotOverwritten() throws IOException {
    RunDirectory.create(root, digits);
    assertThatThrownBy(() -> RunDirectory.create(root, digits))
        .isInstanceOf(IOException.class)
        .hasMessage(
            root + " already holds a run; go on with it by --resume, or give --out another folder");
  }

  @Test
  void otherFilesAreNotMixedWithARun() throws IOException {
    Files.createDirectories(root);
    Files.createFile(root.resolve("thesis.tex"));
    assertThatThrownBy(() -> RunDirectory.create(root, digits))
        .isInstanceOf(IOException.class)
        .hasMessage(
            root + " is not empty and holds no run; give --out a folder that is new or empty");
    assertThat(root.resolve("samples")).doesNotExist();
    Path file = root.resolve("thesis.tex");
    assertThatThrownBy(() -> RunDirectory.create(file, digits))
        .isInstanceOf(IOException.class)
        .hasMessage(file + " is a file; give --out a folder that is new or empty");
  }

  @Test
  void onlyARunIsOpened() {
    assertThatThrownBy(() -> RunDirectory.open(root))
        .isInstanceOf(IOException.class)
        .hasMessage(
            root
                + " holds no run: there is no config.yaml in it; name the folder that training"
                + " wrote");
  }

  @Test
  void theNewestCheckpointsAreKept() throws IOException {
    RunDirectory run = RunDirectory.create(root, digits);
    assertThat(run.newestCheckpoints()).isEmpty();
    Files.createDirectories(root.resolve("checkpoints/.step_000600.part")); // not finished
    for (long step : List.of(500L, 1_000_000L, 99_500L)) {
      Files.writeString(Files.createDirectories(run.checkpoint(step)).resolve("ema"), "");
    }
    assertThat(run.newestCheckpoints())
        .containsExactly(run.checkpoint(1_000_000), run.checkpoint(99_500), run.checkpoint(500));
    run.keepCheckpoints(1, 500);
    assertThat(run.newestCheckpoints()).hasSize(3); // all are multiples of 500
    run.keepCheckpoints(2, 1000);
    assertThat(run.checkpoint(500)).doesNotExist();
    assertThat(run.checkpoint(99_500)).isDirectoryContaining("glob:**ema");
    assertThat(run.checkpoint(1_000_000)).isDirectoryContaining("glob:**ema");
    run.keepCheckpoints(5, 0);
    assertThat(run.checkpoint(99_500)).exists();
  }

  @Test
  void whatADeadProcessLeftIsRemovedAndNothingElse() throws IOException {
    RunDirectory run = RunDirectory.create(root, digits);
    for (String name :
        List.of(".config.yaml.3f", ".metrics.jsonl.3f", "samples/.step_000100.png.3f")) {
      Files.writeString(root.resolve(name), "half");
    }
    Files.createDirectories(root.resolve("checkpoints/.step_000600.incomplete/folder"));
    Files.createDirectories(root.resolve("checkpoints/.step_000500.deleted"));
    Files.createDirectories(run.checkpoint(500));
    Files.writeString(root.resolve(".notes"), "mine");
    run.removeLeftovers();
    assertThat(root)
        .isDirectoryNotContaining("glob:**.3f")
        .isDirectoryContaining("glob:**/.notes")
        .isDirectoryContaining("glob:**/config.yaml");
    assertThat(run.samples()).isEmptyDirectory();
    assertThat(run.newestCheckpoints()).containsExactly(run.checkpoint(500));
    assertThat(run.checkpoints().toFile().list()).containsExactly("step_000500");
  }

  @Test
  void aRunThatDiedAtBirthMayBeMadeAgain() throws IOException {
    Files.createDirectories(root);
    Files.writeString(root.resolve(".config.yaml.3f"), "half");
    assertThat(RunDirectory.create(root, digits).recipe()).isEqualTo(digits);
  }

  @Test
  void oneProcessTrainsAtATime() throws IOException {
    RunDirectory run = RunDirectory.create(root, digits);
    try (Closeable _ = run.lock()) {
      assertThatThrownBy(run::lock)
          .isInstanceOf(IOException.class)
          .hasMessageContaining("is being trained by another process");
    }
    run.lock().close();
  }

  @Test
  void theEnvironmentComesBack() throws IOException {
    RunDirectory run = RunDirectory.create(root, digits);
    assertThat(run.environment()).isEmpty();
    Environment environment = new Environment("1.0", "nd4j", "fp32", 2, -5, "25");
    run.writeEnvironment(environment);
    assertThat(run.environment()).contains(environment);
  }

  @Test
  void aRunThatIsGivenNoFolderGetsOne() {
    LocalDateTime now = LocalDateTime.of(2025, 5, 19, 7, 8, 9);
    assertThat(RunDirectory.defaultRoot("digits", now))
        .isEqualTo(Path.of("runs/digits-20250519-070809"));
    assertThat(RunDirectory.defaultRoot("my/own.yaml", now))
        .isEqualTo(Path.of("runs/own-20250519-070809"));
  }
}
