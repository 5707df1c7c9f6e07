package org.meanflow.train.recipe;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import java.util.zip.GZIPOutputStream;
import org.assertj.core.api.AbstractThrowableAssert;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;
import org.meanflow.core.objective.AdaptiveLoss;
import org.meanflow.core.objective.DroppedTarget;
import org.meanflow.core.objective.Guidance;
import org.meanflow.core.objective.Reduction;
import org.meanflow.core.path.CosinePath;
import org.meanflow.core.path.LinearPath;
import org.meanflow.core.time.EqualCount;
import org.meanflow.core.time.LogitNormal;
import org.meanflow.core.time.Pairing;
import org.meanflow.core.time.TimePairSampler;
import org.meanflow.core.time.Uniform;
import org.meanflow.nn.dit.DiTConfig;
import org.meanflow.nn.dit.TimeConditioning;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.layer.PositionTable;
import org.meanflow.train.Guard;
import org.meanflow.train.data.DataException;
import org.meanflow.train.data.HorizontalFlip;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.data.ImageFolderDataset;
import org.meanflow.train.data.LatentForm;
import org.meanflow.train.optim.AdamWConfig;
import org.meanflow.train.optim.Ema;
import org.meanflow.train.optim.LearningRate;

class RecipeTest {

  /** All keys, and values that none of them has by default. */
  private static final String FULL =
      """
      model:
        channels: 3
        imageSize: 32
        patch: 2
        width: 48
        depth: 5
        heads: 6
        mlpRatio: 2.5
        classes: 7
        norm: layer
        normEpsilon: 1e-5
        qkNorm: true
        timeScale: 1000
        conditioning: t-h
        positions: fixed
        timeFeatures: 64
      flow:
        path: cosine
        times:
          law: logit-normal
          mean: -2
          std: 2
          pairing: independent-then-min
          fractionEqual: 0.25
          count: bernoulli
          lawR: {law: uniform}
        guidance: {omega: 2, kappa: 0.5, from: 0.1, to: 0.9, dropProbability: 0.2, dropped: guided, startStep: 40}
        loss: {p: 0.5, c: 0.01, reduction: mean}
      optimizer: {rate: 1e-4, beta1: 0.8, beta2: 0.99, epsilon: 1.0e-8, weightDecay: 0.1, clipNorm: 2}
      schedule: {kind: constant, warmupSteps: 30, finalFraction: 0.1, referenceSteps: 70}
      ema: {decay: [0.99, 0.9], warmup: true}
      data: {format: idx, folder: some folder, images: some images, labels: some labels, flip: true}
      run:
        batch: 8
        steps: 90
        seed: -3
        previewEvery: 0
        checkpointEvery: 10
        keepCheckpoints: 1
        precision: fp64
        accumulate: 2
        keepEvery: 30
        onSaveFailure: continue
        init: some run
        initPartial: true
      guard: {onNonFinite: rollback, limit: 3, rollbackFactor: 0.25, spikeThreshold: 20, window: 50}
      """;

  private static Recipe digits;

  @TempDir Path directory;

  @BeforeAll
  static void loadDigits() throws RecipeException {
    digits = Recipe.load("digits");
  }

  @Test
  void everyKeyArrives() throws RecipeException {
    Recipe recipe = Recipe.parse("full", FULL);
    Norm norm = new Norm(Norm.Kind.LAYER, 1e-5);
    assertThat(recipe.dit())
        .isEqualTo(
            new DiTConfig(
                3,
                32,
                2,
                48,
                5,
                6,
                2.5,
                7,
                norm,
                norm,
                1000,
                TimeConditioning.T_H,
                PositionTable.FIXED,
                64));
    var objective = recipe.objective(40);
    assertThat(objective.path()).isEqualTo(new CosinePath());
    assertThat(objective.times())
        .isEqualTo(
            new TimePairSampler(
                new LogitNormal(-2, 2),
                new Uniform(),
                Pairing.INDEPENDENT_THEN_MIN,
                0.25,
                EqualCount.BERNOULLI));
    assertThat(objective.guidance())
        .isEqualTo(new Guidance(2, 0.5, 0.1, 0.9, 0.2, DroppedTarget.GUIDED));
    assertThat(objective.loss()).isEqualTo(new AdaptiveLoss(0.5, 0.01, Reduction.MEAN));
    assertThat(recipe.adamW()).isEqualTo(new AdamWConfig(0.8, 0.99, 1e-8, 0.1, 2));
    assertThat(recipe.learningRate())
        .isEqualTo(new LearningRate(1e-4, 30, LearningRate.Kind.CONSTANT, 90, 0.1, 70));
    assertThat(recipe.averages()).containsExactly(new Ema(0.99, true), new Ema(0.9, true));
    assertThat(recipe.data())
        .isEqualTo(
            new DataSection(
                DataSection.Format.IDX, "some folder", "some images", "some labels", true, null));
    assertThat(recipe.run())
        .isEqualTo(
            new RunSection(
                8,
                90,
                -3,
                0,
                10,
                1,
                Precision.FP64,
                2,
                30,
                RunSection.OnSaveFailure.CONTINUE,
                "some run",
                true));
    assertThat(recipe.guard().config())
        .isEqualTo(new Guard.Config(Guard.Policy.ROLLBACK, 3, 0.25, 20, 50));
  }

  @Test
  void optionalKeysMayBeLeftOut() throws RecipeException {
    Recipe recipe =
        Recipe.parse("full", FULL)
            .with(
                List.of(
                    "model.normEpsilon=null",
                    "model.qkNorm=false",
                    "flow.times.lawR=",
                    "flow.guidance.startStep=null",
                    "optimizer.clipNorm=null",
                    "schedule.finalFraction=null",
                    "schedule.kind=cosine",
                    "ema.warmup=null",
                    "ema.decay=0.5",
                    "run.accumulate=null",
                    "run.init=null",
                    "guard=null",
                    "model.classes=0",
                    "data.labels=null"));
    assertThat(recipe.dit().norm()).isEqualTo(Norm.layer());
    assertThat(recipe.dit().qkNorm()).isEqualTo(Norm.none());
    assertThat(recipe.objective(0).times().lawR()).isEqualTo(new LogitNormal(-2, 2));
    assertThat(recipe.objective(0).guidance().omega()).isEqualTo(2);
    assertThat(recipe.adamW().clipNorm()).isInfinite();
    assertThat(recipe.learningRate().finalFraction()).isZero();
    assertThat(recipe.averages()).containsExactly(new Ema(0.5, false));
    assertThat(recipe.run().accumulate()).isEqualTo(1);
    assertThat(recipe.guard().config())
        .isEqualTo(new Guard.Config(Guard.Policy.STOP, 10, 0.5, Double.POSITIVE_INFINITY, 100));
    assertThat(recipe.toYaml()).doesNotContain("lawR", "clipNorm", "labels", "null", "init:");
    assertThat(recipe.toYaml()).contains("accumulate: 1", "window: 100"); // defaults are resolved
    assertThat(Recipe.parse("again", recipe.toYaml())).isEqualTo(recipe);
  }

  @Test
  void theDefaultEpsilonFollowsTheNorm() throws RecipeException {
    assertThat(digits.dit().norm()).isEqualTo(Norm.rms());
    assertThat(digits.with(List.of("model.norm=layer")).dit().norm()).isEqualTo(Norm.layer());
  }

  @Test
  void labelsAreDroppedBeforeGuidanceStarts() throws RecipeException {
    Recipe recipe = Recipe.parse("full", FULL);
    Guidance before = recipe.objective(39).guidance();
    assertThat(before).isEqualTo(new Guidance(1, 0, 0.1, 0.9, 0.2, DroppedTarget.GUIDED));
    assertThat(before.active()).isFalse();
    assertThat(recipe.objective(40).guidance().active()).isTrue();
  }

  @Test
  void aPresetStandsForItsValues() throws RecipeException {
    Recipe recipe =
        digits.with(List.of("model={preset: B/4, channels: 4, imageSize: 32, classes: 1000}"));
    assertThat(recipe.dit()).isEqualTo(DiTConfig.preset("B/4", 4, 32, 1000));
    assertThat(Recipe.parse("again", recipe.toYaml())).isEqualTo(recipe);
    assertThatThrownBy(
            () ->
                digits.with(List.of("model={preset: Q/4, channels: 4, imageSize: 32, classes: 1}")))
        .isInstanceOf(RecipeException.class)
        .hasMessageContaining("model.preset must be like B/4")
        .hasMessageEndingWith("got Q/4");
    assertThatThrownBy(() -> digits.with(List.of("model.preset=B/4")))
        .hasMessageEndingWith("known are preset, channels, imageSize, classes");
  }

  static Stream<String> shipped() {
    return Recipe.shipped().stream();
  }

  @ParameterizedTest
  @MethodSource("shipped")
  void shippedRecipesLoadAndComeBack(String name) throws RecipeException {
    Recipe recipe = Recipe.load(name);
    assertThat(Recipe.parse("again", recipe.toYaml())).isEqualTo(recipe);
    assertThat(recipe.objective(0).path()).isEqualTo(new LinearPath());
  }

  @ParameterizedTest
  @MethodSource("shipped")
  void everyLineOfAShippedRecipeExplainsItself(String name) throws IOException {
    List<String> lines = Files.readAllLines(recipes().resolve(name + ".yaml"));
    assertThat(lines).allMatch(line -> line.contains("# ") || line.endsWith(":"));
  }

  @Test
  void everyRecipeFileIsShipped() throws IOException {
    try (Stream<Path> files = Files.list(recipes())) {
      assertThat(files.map(file -> file.getFileName().toString().replace(".yaml", "")))
          .containsExactlyInAnyOrderElementsOf(Recipe.shipped());
    }
  }

  @Test
  void aFileIsReadByItsPath() throws IOException {
    Path file = Files.writeString(directory.resolve("mine.yaml"), FULL);
    assertThat(Recipe.load(file.toString())).isEqualTo(Recipe.parse("full", FULL));
    Path missing = directory.resolve("missing.yaml");
    assertThatThrownBy(() -> Recipe.load(missing.toString()))
        .isInstanceOf(RecipeException.class)
        .hasMessage(missing + ": there is no such file");
    Files.write(file, new byte[] {(byte) 0xff});
    assertThatThrownBy(() -> Recipe.load(file.toString()))
        .isInstanceOf(RecipeException.class)
        .hasMessageStartingWith(file + ": ");
  }

  @Test
  void anUnknownNameListsTheShipped() {
    assertThatThrownBy(() -> Recipe.load("digit"))
        .isInstanceOf(RecipeException.class)
        .hasMessage(
            "recipe digit: is unknown; known are cifar10, digits, fashion, imagenet-latent-b4,"
                + " imagenet-latent-xl2, mnist, or name a .yaml file");
  }

  @Test
  void anUnknownKeyNamesTheNearest() {
    refused("  width: 48", "  widht: 48", "model.widht is unknown; did you mean model.width?");
    refused("  path: cosine", "  pathh: cosine", "flow.pathh is unknown; did you mean flow.path?");
    refused("omega: 2", "Omega: 2", "flow.guidance.Omega is unknown; did you mean");
    refused("optimizer:", "optimiser:", "optimiser is unknown; did you mean optimizer?");
    refused("p: 0.5", "power: 0.5", "flow.loss.power is unknown; known are p, c, reduction");
  }

  @Test
  void aMissingKeyIsNamed() {
    refused("  batch: 8\n", "", "run.batch must be given, got nothing");
    refused("  path: cosine", "  path: null", "flow.path must be given, got null");
    refused("  path: cosine", "  path:", "flow.path must be given, got null");
    refused("ema: {decay: [0.99, 0.9], warmup: true}\n", "", "ema must be given, got nothing");
    refused("  mean: -2\n", "\n", "flow.times.mean must be given for the law logit-normal");
    refused(
        "lawR: {law: uniform}", "lawR: {law: logit-normal, mean: 0}", "flow.times.lawR.std must");
  }

  /** The values are what YAML makes of them: the quoted number is a text, 1.0 no integer. */
  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "batch: 8      | batch: \"8\"     | run.batch must be an integer of 32 bits, got \"8\"",
        "batch: 8      | batch: 8.0       | run.batch must be an integer of 32 bits, got 8.0",
        "batch: 8      | batch: 3000000000| run.batch must be an integer of 32 bits, got"
            + " 3000000000",
        "batch: 8      | batch: true      | run.batch must be an integer of 32 bits, got true",
        "batch: 8      | batch: [8]       | run.batch must be an integer of 32 bits, got [8]",
        "steps: 90     | steps: 1e3       | run.steps must be an integer of 64 bits, got ",
        "startStep: 40 | startStep: x     | flow.guidance.startStep must be an integer of 64 bits",
        "omega: 2      | omega: two       | flow.guidance.omega must be a number, got \"two\"",
        "clipNorm: 2   | clipNorm: yes    | optimizer.clipNorm must be a number, got ",
        "qkNorm: true  | qkNorm: 1        | model.qkNorm must be true or false, got 1",
        "warmup: true  | warmup: \"true\" | ema.warmup must be true or false, got \"true\"",
        "path: cosine  | path: 3          | flow.path must be a text, got 3",
        "decay: [0.99, 0.9] | decay: [0.9, high] | ema.decay must be a number, got \"high\"",
        "onSaveFailure: continue | onSaveFailure: retry | run.onSaveFailure must be one of stop",
        "norm: layer   | norm: none       | model.norm must be one of rms, layer, got \"none\"",
        "norm: layer   | norm: LAYER      | model.norm must be one of rms, layer, got \"LAYER\"",
        "norm: layer   | norm: 1          | model.norm must be one of rms, layer, got 1",
        "precision: fp64 | precision: fp8 | run.precision must be one of fp64, fp32",
        "loss: {p: 0.5, c: 0.01, reduction: mean} | loss: 3 | flow.loss must be a mapping of keys",
      })
  void aValueOfAnotherTypeIsRefused(String line, String changed, String message) {
    refused(line, changed, message);
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "channels: 3   | channels: 0    | model.channels must be >= 1, got 0",
        "imageSize: 32 | imageSize: 33  | model.imageSize must be a multiple of patch (2), got 33",
        "normEpsilon: 1e-5 | normEpsilon: 1 | model.normEpsilon must be in [0, 1), got 1.0",
        "path: cosine  | path: bent     | flow.path must be one of linear, cosine, got bent",
        "  std: 2      |   std: 0       | flow.times.std must be finite and > 0, got 0.0",
        "fractionEqual: 0.25 | fractionEqual: 2 | flow.times.fractionEqual must be in [0, 1]",
        "kappa: 0.5    | kappa: 1       | flow.guidance.kappa must be in [0, 1), got 1.0",
        "startStep: 40 | startStep: -1  | flow.guidance.startStep must be >= 0, got -1",
        "p: 0.5        | p: 3           | flow.loss.p must be in [0, 2], got 3.0",
        "rate: 1e-4    | rate: -1       | optimizer.rate must be finite and > 0, got -1.0",
        "beta2: 0.99   | beta2: 1       | optimizer.beta2 must be in [0, 1), got 1.0",
        "clipNorm: 2   | clipNorm: 0    | optimizer.clipNorm must be > 0, got 0.0",
        "warmupSteps: 30 | warmupSteps: -1 | schedule.warmupSteps must be >= 0, got -1",
        "decay: [0.99, 0.9] | decay: 1  | ema.decay must be in [0, 1), got 1.0",
        "decay: [0.99, 0.9] | decay: [0.9, -1] | ema.decay must be in [0, 1), got -1.0",
        "decay: [0.99, 0.9] | decay: [] | ema.decay must have at least one value, got none",
        "decay: [0.99, 0.9] | decay: [0.9, 0.90] | ema.decay must have different values",
        "accumulate: 2 | accumulate: 0  | run.accumulate must be >= 1, got 0",
        "accumulate: 2 | accumulate: 3  | run.batch must be a multiple of accumulate (3), got 8",
        "keepEvery: 30 | keepEvery: -1  | run.keepEvery must be >= 0, got -1",
        "limit: 3      | limit: -1      | guard.limit must be >= 0, got -1",
        "rollbackFactor: 0.25 | rollbackFactor: 0 | guard.rollbackFactor must be in (0, 1]",
        "spikeThreshold: 20 | spikeThreshold: 0 | guard.spikeThreshold must be > 0, got 0.0",
        "window: 50    | window: 7      | guard.window must be >= 8, got 7",
        "kind: constant, warmupSteps: 30, finalFraction: 0.1, referenceSteps: 70 | kind:"
            + " inverse-root, warmupSteps: 1 | schedule.referenceSteps must be >= 1, got 0",
        "batch: 8      | batch: 0       | run.batch must be >= 1, got 0",
        "steps: 90     | steps: 0       | run.steps must be >= 1, got 0",
        "previewEvery: 0 | previewEvery: -1 | run.previewEvery must be >= 0, got -1",
        "checkpointEvery: 10 | checkpointEvery: -1 | run.checkpointEvery must be >= 0, got -1",
        "keepCheckpoints: 1 | keepCheckpoints: 0 | run.keepCheckpoints must be >= 1, got 0",
        "labels: some labels | labels: null | model.classes must be 0 where data.labels is not",
        "format: idx   | format: cifar10 | data.labels must be left out unless data.format is idx",
        "labels: some labels | latents: {content: latents} | data.latents must be given if, and"
            + " only",
      })
  void aValueOutOfRangeIsRefused(String line, String changed, String message) {
    refused(line, changed, message);
  }

  @Test
  void whatIsNoRecipeIsRefused() {
    invalid("").hasMessage("test: a recipe must be a mapping of keys to values, got nothing");
    invalid("[1, 2]").hasMessageStartingWith("test: a recipe must be a mapping");
    invalid("a: [").hasMessageStartingWith("test: line ").hasMessageContaining("no valid YAML");
    invalid(FULL + "ema: {decay: 0.5}\n").hasMessageContaining("Duplicate field 'ema'");
    invalid(FULL.replace("p: 0.5", "p: 0.5, p: 1")).hasMessageContaining("Duplicate field 'p'");
    invalid(FULL + "---\n" + FULL).hasMessageContaining("no valid YAML");
    invalid(FULL.replace("p: 0.5", "p: .nan")).hasMessageContaining("no valid YAML");
    invalid("\t\u0000").hasMessageContaining("no valid YAML");
  }

  @Test
  void overridesAreAppliedInTurn() throws RecipeException {
    Recipe changed =
        digits.with(
            List.of(
                "run.batch=3",
                "run.batch=7",
                "flow.times.law=uniform",
                "flow.guidance={omega: 2, kappa: 0, from: 0, to: 1, dropProbability: 0.1, dropped:"
                    + " velocity}",
                " optimizer.rate = 5e-4",
                "data.images=a=b"));
    assertThat(changed.run().batch()).isEqualTo(7);
    assertThat(changed.objective(0).times().lawT()).isEqualTo(new Uniform());
    assertThat(changed.objective(0).guidance().omega()).isEqualTo(2);
    assertThat(changed.learningRate().rate()).isEqualTo(5e-4);
    assertThat(changed.data().images()).isEqualTo("a=b");
    assertThat(changed.model()).isEqualTo(digits.model());
    assertThat(digits.run().batch()).isEqualTo(64);
    assertThat(digits.with(List.of())).isEqualTo(digits);
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "run.bach=3        | run.bach is unknown; did you mean run.batch?",
        "flow.time.std=3   | flow.time is unknown; did you mean flow.times?",
        "runs.batch=3      | runs is unknown; did you mean run?",
        "run.batch=many    | run.batch must be an integer of 32 bits, got \"many\"",
        "run.batch=0       | run.batch must be >= 1, got 0",
        "run.batch=        | run.batch must be given, got null",
        "run.batch.x=1     | run.batch must be an integer of 32 bits, got {\"x\":1}",
        "run.batch=[       | is no valid YAML",
        "run=3             | run must be a mapping of keys to values, got 3",
        "run.batch         | must be KEY=VALUE, got run.batch",
        "=3                | must be KEY=VALUE, got =3",
        ".=3               | is unknown; known are model",
      })
  void aWrongOverrideIsRefusedLikeAWrongRecipe(String override, String message) {
    assertThatThrownBy(() -> digits.with(List.of("run.seed=4", override)))
        .isInstanceOf(RecipeException.class)
        .hasMessageStartingWith("override run.seed=4, " + override + ": ")
        .hasMessageContaining(message)
        .message()
        .doesNotContain("\n");
  }

  @Test
  void theDataSetFitsTheModel() throws IOException {
    Recipe recipe =
        Recipe.load("mnist").with(List.of("data.folder=" + directory, "data.labels=labels"));
    // Two black images with the header of MNIST.
    byte[] images = {0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28};
    ByteArrayOutputStream compressed = new ByteArrayOutputStream();
    try (GZIPOutputStream out = new GZIPOutputStream(compressed)) {
      out.write(Arrays.copyOf(images, 16 + 2 * 28 * 28));
    }
    Files.write(directory.resolve("train-images-idx3-ubyte.gz"), compressed.toByteArray());
    Files.write(directory.resolve("labels"), new byte[] {0, 0, 8, 1, 0, 0, 0, 2, 3, 9});

    assertThat(recipe.dataset().size()).isEqualTo(2);
    assertThat(recipe.dataset().classes()).isEqualTo(10);
    assertThat(recipe.with(List.of("model.classes=0")).dataset().classes()).isZero();
    assertThatThrownBy(() -> recipe.with(List.of("model.classes=9")).dataset())
        .isInstanceOf(DataException.class)
        .hasMessageContaining("label must be in [0, 9), got 9");
    assertThatThrownBy(() -> recipe.with(List.of("model.imageSize=32")).dataset())
        .isInstanceOf(RecipeException.class)
        .hasMessage(
            "train-images-idx3-ubyte: images must have the shape that model.channels and"
                + " model.imageSize say, [1, 32, 32], got [1, 28, 28]");
    assertThatThrownBy(() -> recipe.with(List.of("data.folder=null")).dataset())
        .isInstanceOf(DataException.class)
        .hasMessageContaining("--data");
  }

  @Test
  void latentsSayHowTheyAreNormalised() throws RecipeException {
    List<String> overrides =
        List.of(
            "data.format=latents",
            "data.labels=",
            "data.latents={content: mean-logvar, mean: [0.5, 1, -2], std: 3, scale: 0.18215}");
    LatentForm form = Recipe.parse("full", FULL).with(overrides).data().latents();
    assertThat(form)
        .isEqualTo(
            new LatentForm(
                LatentForm.Content.MEAN_LOGVAR, 0.18215, List.of(0.5, 1.0, -2.0), List.of(3.0)));
    assertThatThrownBy(() -> digits.with(overrides).with(List.of("data.latents.std=[1, 0, 1]")))
        .hasMessageContaining("data.latents.std must be finite and > 0, got [1.0, 0.0, 1.0]");
    assertThatThrownBy(() -> digits.with(overrides).with(List.of("data.latents.std=[1, wide]")))
        .hasMessageContaining("data.latents.std must be a number, got \"wide\"");
    assertThatThrownBy(() -> digits.with(overrides).with(List.of("data.latents=null")))
        .hasMessageContaining("data.latents must be given if, and only if, data.format is latents");
  }

  @Test
  void cifarIsReadFromRecordsOrFolders() throws IOException {
    Recipe recipe = Recipe.load("cifar10").with(List.of("data.folder=" + directory));
    Files.write(directory.resolve("data_batch_1.bin"), new byte[2 * 3073]);
    Files.write(directory.resolve("data_batch_2.bin"), new byte[3073]);
    Files.write(directory.resolve("test_batch.bin"), new byte[3073]);
    try (ImageDataset dataset = recipe.dataset()) {
      assertThat(dataset).isInstanceOf(HorizontalFlip.class);
      assertThat(dataset.size()).isEqualTo(3);
      assertThat(dataset.imageShape()).containsExactly(3, 32, 32);
    }
    Path folder = Files.createDirectories(directory.resolve("train/cat"));
    Files.write(folder.resolve("x.png"), new byte[1]);
    List<String> pictures =
        List.of("data.format=image-folder", "data.images=train", "data.flip=null");
    try (ImageDataset dataset = recipe.with(pictures).dataset()) {
      assertThat(dataset).isInstanceOf(ImageFolderDataset.class);
      assertThat(dataset.size()).isEqualTo(1);
      assertThat(dataset.classes()).isEqualTo(10);
    }
  }

  @Test
  void latentsHaveThePapersSettings() throws RecipeException {
    for (String name : List.of("imagenet-latent-b4", "imagenet-latent-xl2")) {
      Recipe recipe = Recipe.load(name);
      boolean large = name.endsWith("xl2");
      assertThat(recipe.dit()).isEqualTo(DiTConfig.preset(large ? "XL/2" : "B/4", 4, 32, 1000));
      Guidance guidance = recipe.objective(0).guidance();
      // arXiv 2505.13447: an effective scale ω / (1 − κ) of 2 in table 5, of 2.5 in table 4.
      assertThat(Math.abs(guidance.omega() / (1 - guidance.kappa()) - (large ? 2.5 : 2)))
          .isLessThan(1e-9);
      assertThat(recipe.objective(0).times()).isEqualTo(TimePairSampler.paper());
      assertThat(recipe.objective(0).loss()).isEqualTo(new AdaptiveLoss(1, 1e-2, Reduction.SUM));
      assertThat(recipe.adamW().beta2()).isEqualTo(0.95);
    }
  }

  @Test
  void aRecipeIsNoLargeFile() throws IOException {
    Path file = Files.writeString(directory.resolve("large.yaml"), FULL + " ".repeat(1 << 16));
    assertThatThrownBy(() -> Recipe.load(file.toString()))
        .isInstanceOf(RecipeException.class)
        .hasMessage(file + ": is no recipe: it has more than 65536 bytes");
  }

  private static void refused(String line, String changed, String message) {
    assertThat(FULL).contains(line);
    invalid(FULL.replace(line, changed)).hasMessageStartingWith("test: " + message);
  }

  private static AbstractThrowableAssert<?, ?> invalid(String yaml) {
    AbstractThrowableAssert<?, ?> refusal =
        assertThatThrownBy(() -> Recipe.parse("test", yaml)).isInstanceOf(RecipeException.class);
    refusal.message().doesNotContain("\n");
    return refusal;
  }

  private static Path recipes() {
    return Path.of("src/main/resources/org/meanflow/train/recipes");
  }
}
