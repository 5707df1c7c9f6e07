package org.meanflow.train;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.SequencedSet;
import java.util.stream.Stream;
import org.meanflow.nn.autodiff.ParameterLayout;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.weights.AtomicFile;
import org.meanflow.nn.weights.Safetensors;
import org.meanflow.nn.weights.SafetensorsWriter;
import org.meanflow.nn.weights.Weights;
import org.meanflow.train.run.RunDirectory;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A trainer's state in a folder:
 *
 * <pre>
 * model.safetensors        the parameters
 * ema.safetensors          their first moving average
 * ema-0.9999.safetensors   each further moving average, named after its decay
 * optimizer.safetensors    moments of AdamW; what rounding took from the averages
 * state.json               step, samples seen, seed, what the guard remembers
 * config.yaml              the recipe
 * checksums.sha256         SHA-256 of each of these files, as {@code sha256sum -c} reads them
 * </pre>
 *
 * <p>The files of weights have the recipe in their metadata, so that each can be sampled on its
 * own. The folder appears as a whole or not at all, and only when all of it is on the disk.
 * Randomness has no state of its own: it is a function of seed and step.
 */
public final class Checkpoint {
  /** The file with the trained parameters. */
  public static final String MODEL = "model.safetensors";

  /** The file with their first moving average. */
  public static final String AVERAGE = "ema.safetensors";

  /** The metadata key of the recipe, as YAML. */
  public static final String RECIPE = "meanflow.recipe";

  private static final Logger log = LoggerFactory.getLogger(Checkpoint.class);
  private static final String OPTIMIZER = "optimizer.safetensors";
  private static final String STATE = "state.json";
  private static final String CONFIG = "config.yaml";
  private static final String CHECKSUMS = "checksums.sha256";
  private static final String FIRST_MOMENTS = "exp_avg.";
  private static final String SECOND_MOMENTS = "exp_avg_sq.";
  private static final List<String> FILES = List.of(MODEL, AVERAGE, OPTIMIZER, STATE, CONFIG);
  private static final int BUFFER_BYTES = 1 << 20;
  private static final JsonMapper JSON = new JsonMapper();

  private Checkpoint() {}

  /**
   * Saves a trainer.
   *
   * @param folder the folder to make; replaced if it exists
   * @param trainer what to save
   * @param recipe the recipe as YAML, kept with the weights
   * @throws IOException if it cannot be written; then what was there before is still there
   */
  public static void write(Path folder, Trainer trainer, String recipe) throws IOException {
    Path temporary = folder.resolveSibling("." + folder.getFileName() + ".incomplete");
    RunDirectory.delete(temporary);
    try {
      writeFiles(temporary, trainer, recipe);
      Path replaced = folder.resolveSibling("." + folder.getFileName() + ".replaced");
      RunDirectory.delete(replaced);
      if (Files.exists(folder)) {
        Files.move(folder, replaced, StandardCopyOption.ATOMIC_MOVE);
      }
      Files.move(temporary, folder, StandardCopyOption.ATOMIC_MOVE);
      AtomicFile.forceDirectory(parent(folder));
      RunDirectory.delete(replaced);
    } catch (IOException e) {
      try {
        RunDirectory.delete(temporary);
      } catch (IOException alsoFailed) {
        e.addSuppressed(alsoFailed);
      }
      throw e;
    }
  }

  private static void writeFiles(Path folder, Trainer trainer, String recipe) throws IOException {
    Map<String, String> metadata = Map.of(RECIPE, recipe);
    Engine engine = trainer.parameters().engine();
    ParameterLayout layout = trainer.parameters().layout();
    Weights.save(folder.resolve(MODEL), trainer.parameters(), metadata);
    SafetensorsWriter moments = new SafetensorsWriter();
    Weights.add(moments, FIRST_MOMENTS, engine, layout, trainer.firstMoments());
    Weights.add(moments, SECOND_MOMENTS, engine, layout, trainer.secondMoments());
    for (int i = 0; i < trainer.averages().size(); i++) {
      MovingAverage average = trainer.averages().get(i);
      String name = averageName(i, average);
      Weights.save(folder.resolve(name + ".safetensors"), average.values(), metadata);
      if (average.remainder() != null) {
        Weights.add(moments, remainderPrefix(name), engine, layout, average.remainder());
      }
    }
    moments.write(folder.resolve(OPTIMIZER));
    ObjectNode state =
        JSON.createObjectNode()
            .put("step", trainer.stepsTaken())
            .put("samplesSeen", trainer.samplesSeen())
            .put("seed", trainer.seed())
            .set("guard", JSON.valueToTree(trainer.guard().state()));
    writeText(folder.resolve(STATE), state.toPrettyString() + "\n");
    writeText(folder.resolve(CONFIG), recipe);
    StringBuilder checksums = new StringBuilder();
    for (String name : files(folder)) {
      checksums.append("%s  %s\n".formatted(sha256(folder.resolve(name)), name));
    }
    writeText(folder.resolve(CHECKSUMS), checksums.toString());
  }

  /**
   * Restores a trainer that was made with the same recipe.
   *
   * @param folder a folder that {@link #write} made
   * @param trainer where to put the state; of no use if this fails
   * @throws IOException if the folder is not a whole checkpoint, with the newest whole one beside
   *     it in the message, or does not fit the trainer, whose batch must be the same, too: where
   *     the run is in its data is the step times the batch
   */
  public static void read(Path folder, Trainer trainer) throws IOException {
    try {
      verify(folder);
    } catch (IOException e) {
      Optional<Path> other = newestWhole(parent(folder));
      throw new IOException(
          e.getMessage()
              + other
                  .map(whole -> "; the newest whole checkpoint is " + whole)
                  .orElse("; there is no whole checkpoint beside it"),
          e);
    }
    JsonNode state = JSON.readTree(Files.readAllBytes(folder.resolve(STATE)));
    long step = state.required("step").longValue();
    long seen = state.required("samplesSeen").longValue();
    if (seen != step * trainer.batch()) {
      throw new IOException(
          "%s: run.batch must stay %d, as its %d steps were taken with, got %d; for another one"
                  .formatted(folder, seen / step, step, trainer.batch())
              + " begin a new run with --init");
    }
    Weights.load(folder.resolve(MODEL), trainer.parameters());
    Engine engine = trainer.parameters().engine();
    ParameterLayout layout = trainer.parameters().layout();
    Path file = folder.resolve(OPTIMIZER);
    try (Safetensors moments = Safetensors.open(file)) {
      Weights.read(moments, file, FIRST_MOMENTS, engine, layout, trainer.firstMoments());
      Weights.read(moments, file, SECOND_MOMENTS, engine, layout, trainer.secondMoments());
      for (int i = 0; i < trainer.averages().size(); i++) {
        MovingAverage average = trainer.averages().get(i);
        String name = averageName(i, average);
        Path weights = folder.resolve(name + ".safetensors");
        if (!Files.exists(weights)) {
          throw new IOException(
              weights + ": there is no such average; keep ema.decay as it was in this checkpoint");
        }
        Weights.load(weights, average.values());
        Tensor remainder = average.remainder();
        String prefix = remainderPrefix(name);
        if (remainder == null) {
          continue;
        }
        if (moments.tensors().keySet().stream().anyMatch(each -> each.startsWith(prefix))) {
          Weights.read(moments, file, prefix, engine, layout, remainder);
        } else {
          engine.kernels().elementwise().fill(remainder, 0); // it was float64
        }
      }
    }
    trainer.restore(step, JSON.treeToValue(state.required("guard"), Guard.State.class));
  }

  /**
   * Checks that a folder holds a checkpoint as it was written.
   *
   * @param folder the folder
   * @throws IOException if it does not, with the name of the damaged or missing file
   */
  public static void verify(Path folder) throws IOException {
    Path list = folder.resolve(CHECKSUMS);
    if (!Files.isRegularFile(list)) {
      throw new IOException(folder + " is not a whole checkpoint: it has no " + CHECKSUMS);
    }
    Map<String, String> checksums = new HashMap<>();
    for (String line : Files.readAllLines(list, StandardCharsets.ISO_8859_1)) {
      String[] words = line.split("  ", 2);
      checksums.put(words[words.length - 1], words[0]);
    }
    List<String> present = files(folder);
    SequencedSet<String> expected = new LinkedHashSet<>(FILES);
    expected.addAll(checksums.keySet());
    for (String name : expected) {
      if (!present.contains(name)) {
        throw new IOException("%s: damaged: the file %s is missing".formatted(folder, name));
      }
    }
    for (String name : present) {
      Path file = folder.resolve(name);
      String actual = sha256(file);
      if (!actual.equals(checksums.get(name))) {
        throw new IOException(
            "%s: damaged: its SHA-256 is %s, %s says %s"
                .formatted(
                    file,
                    actual,
                    CHECKSUMS,
                    Objects.requireNonNullElse(checksums.get(name), "nothing")));
      }
    }
  }

  /**
   * The newest checkpoint of a run that is whole. Damaged ones that are newer are named in the log.
   *
   * @param run the run
   * @return its folder; empty if the run has no checkpoint yet
   * @throws IOException if all checkpoints are damaged, or the folder cannot be read
   */
  public static Optional<Path> newestWhole(RunDirectory run) throws IOException {
    Optional<Path> whole = newestWhole(run.checkpoints());
    if (whole.isEmpty() && !run.newestCheckpoints().isEmpty()) {
      throw new IOException(
          run.checkpoints()
              + ": all checkpoints are damaged; start a new run, with --init at best");
    }
    return whole;
  }

  private static Optional<Path> newestWhole(Path folder) throws IOException {
    for (Path checkpoint : RunDirectory.checkpointsIn(folder)) {
      try {
        verify(checkpoint);
        return Optional.of(checkpoint);
      } catch (IOException e) {
        log.warn("{}; looking for an older checkpoint", e.getMessage());
      }
    }
    return Optional.empty();
  }

  private static Path parent(Path folder) {
    return Objects.requireNonNull(folder.toAbsolutePath().getParent(), "a root folder");
  }

  private static String averageName(int index, MovingAverage average) {
    return index == 0 ? "ema" : "ema-" + average.ema().decay();
  }

  private static String remainderPrefix(String average) {
    return average + ".remainder.";
  }

  /** Names of all files but the checksums, sorted. */
  private static List<String> files(Path folder) throws IOException {
    try (Stream<Path> files = Files.list(folder)) {
      return files
          .map(file -> file.getFileName().toString())
          .filter(name -> !name.equals(CHECKSUMS))
          .sorted()
          .toList();
    }
  }

  private static void writeText(Path file, String text) throws IOException {
    AtomicFile.write(file, text.getBytes(StandardCharsets.UTF_8));
  }

  private static String sha256(Path file) throws IOException {
    MessageDigest digest;
    try {
      digest = MessageDigest.getInstance("SHA-256");
    } catch (NoSuchAlgorithmException e) {
      throw new AssertionError("every Java platform has SHA-256", e);
    }
    ByteBuffer buffer = ByteBuffer.allocate(BUFFER_BYTES);
    try (FileChannel channel = FileChannel.open(file)) {
      while (channel.read(buffer) >= 0) {
        digest.update(buffer.flip());
        buffer.clear();
      }
    }
    return HexFormat.of().formatHex(digest.digest());
  }
}
