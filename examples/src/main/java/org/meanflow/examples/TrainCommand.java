package org.meanflow.examples;

import java.io.IOException;
import java.nio.file.Path;
import java.time.LocalDateTime;
import java.time.ZoneId;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.train.Checkpoint;
import org.meanflow.train.Devices;
import org.meanflow.train.TrainingRun;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.recipe.Recipe;
import org.meanflow.train.run.RunDirectory;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** Trains a network by a recipe. */
@Command(
    name = "train",
    description = "Trains a network by a recipe, and draws samples on the way.",
    footer = {
      "",
      "Ctrl-C saves the state; --resume RUN goes on from it. Every key of a recipe can be set:",
      "  ./meanflow train --recipe digits --set model.depth=6 --set optimizer.rate=1e-3"
    })
final class TrainCommand implements Callable<Integer> {

  @Option(
      names = "--recipe",
      paramLabel = "NAME_OR_FILE",
      description =
          "a shipped recipe (digits, mnist, fashion, cifar10, imagenet-latent-b4,"
              + " imagenet-latent-xl2) or a .yaml file")
  private @Nullable String recipeName;

  @Option(
      names = "--resume",
      paramLabel = "RUN",
      description = "go on with this run, from its newest checkpoint")
  private @Nullable Path resume;

  @Option(
      names = "--init",
      paramLabel = "RUN_OR_FILE",
      description = "start from these weights, as --set run.init=RUN_OR_FILE")
  private @Nullable Path init;

  @Option(
      names = "--init-partial",
      description = "start even if they lack parameters or have others, which are listed")
  private boolean initPartial;

  @Option(names = "--data", paramLabel = "DIR", description = "folder of the data set's files")
  private @Nullable Path data;

  @Option(names = "--steps", paramLabel = "N", description = "training steps, as --set run.steps=N")
  private @Nullable Long steps;

  @Option(
      names = "--batch",
      paramLabel = "B",
      description = "batch size, as --set run.batch=B; a resumed run must keep its own")
  private @Nullable Integer batch;

  @Option(names = "--seed", paramLabel = "S", description = "random seed, as --set run.seed=S")
  private @Nullable Long seed;

  @Option(
      names = "--precision",
      paramLabel = "P",
      description = "fp32, tf32, bf16 or fp64, where the engine has it; as --set run.precision=P")
  private @Nullable String precision;

  @Option(
      names = "--gpus",
      split = ",",
      paramLabel = "N",
      description =
          "train on these GPUs, as 0,1,2,3: each takes its part of every batch; with the cuda"
              + " engine, and NCCL for more than one")
  private List<String> gpus = new ArrayList<>();

  @Option(
      names = "--out",
      paramLabel = "RUN",
      description = "the run directory to make (default: runs/RECIPE-TIME)")
  private @Nullable Path out;

  @Option(
      names = "--set",
      paramLabel = "key=value",
      description = "set a key of the recipe; may be repeated")
  private List<String> settings = new ArrayList<>();

  @Mixin private final CommonOptions common = new CommonOptions();
  @Spec private CommandSpec spec;

  @Override
  public Integer call() throws IOException {
    String name = recipeName;
    Path resumed = resume;
    if ((name == null) == (resumed == null)) {
      throw new ParameterException(
          spec.commandLine(), "give either --recipe NAME_OR_FILE or --resume RUN");
    }
    if (resumed != null && (out != null || init != null)) {
      throw new ParameterException(
          spec.commandLine(),
          "--%s does not go with --resume, which goes on in the same folder from its checkpoint"
              .formatted(out != null ? "out" : "init"));
    }
    if (!gpus.isEmpty() && common.engine != null && !"cuda".equals(common.engine)) {
      throw new ParameterException(
          spec.commandLine(), "--gpus needs the cuda engine, got --engine " + common.engine);
    }
    RunDirectory existing = resumed == null ? null : RunDirectory.open(resumed);
    Recipe recipe =
        (existing == null ? Recipe.load(Objects.requireNonNull(name)) : existing.recipe())
            .with(overrides());
    try (ImageDataset dataset = recipe.dataset();
        Engine engine = engine(recipe);
        Devices devices = engine != null ? Devices.of(engine) : gpus(recipe)) {
      RunDirectory directory =
          existing != null ? existing : RunDirectory.create(root(name), recipe);
      TrainingRun.Outcome outcome =
          new TrainingRun(recipe, directory, dataset, devices)
              .run(existing == null ? null : Checkpoint.newestWhole(existing).orElse(null));
      return switch (outcome) {
        case FINISHED -> 0;
        case INTERRUPTED -> 1;
      };
    }
  }

  private @Nullable Engine engine(Recipe recipe) {
    return gpus.isEmpty()
        ? Engines.create(common.engine, recipe.run().precision(), common.threads)
        : null;
  }

  private Devices gpus(Recipe recipe) {
    return Devices.gpus(recipe.run().precision(), gpus);
  }

  private Path root(@Nullable String name) {
    return out != null
        ? out
        : RunDirectory.defaultRoot(
            Objects.requireNonNull(name), LocalDateTime.now(ZoneId.systemDefault()));
  }

  private List<String> overrides() {
    List<String> overrides = new ArrayList<>(settings);
    add(overrides, "data.folder", data == null ? null : quoted(data.toAbsolutePath()));
    add(overrides, "run.init", init == null ? null : quoted(init.toAbsolutePath()));
    add(overrides, "run.initPartial", initPartial ? true : null);
    add(overrides, "run.steps", steps);
    add(overrides, "run.batch", batch);
    add(overrides, "run.seed", seed);
    add(overrides, "run.precision", precision);
    return overrides;
  }

  /** A path as a YAML string. */
  private static String quoted(Path path) {
    return "'" + path.toString().replace("'", "''") + "'";
  }

  private static void add(List<String> overrides, String key, @Nullable Object value) {
    if (value != null) {
      overrides.add(key + "=" + value);
    }
  }
}
