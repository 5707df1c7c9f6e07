package org.meanflow.train;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.meanflow.core.field.TrainableVelocity;
import org.meanflow.nn.DataParallelField;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.dit.DiT;
import org.meanflow.nn.dit.DiTConfig;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.weights.Safetensors;
import org.meanflow.nn.weights.Weights;
import org.meanflow.train.recipe.Recipe;
import org.meanflow.train.run.RunDirectory;

/** A network read back from a run, a checkpoint or a weights file, to draw samples from. */
public final class TrainedModel implements AutoCloseable {
  private static final String EXTENSION = ".safetensors";

  private final DiT network;
  private final ParameterStore parameters;

  private TrainedModel(DiT network, ParameterStore parameters) {
    this.network = network;
    this.parameters = parameters;
  }

  /**
   * Reads a network; its architecture comes from the recipe that {@link Checkpoint} keeps in the
   * file.
   *
   * @param source a run directory (its newest checkpoint is taken), a checkpoint folder (its moving
   *     average is taken) or a weights file
   * @param engine holds the parameters; stays the caller's to close
   * @return the network
   * @throws IOException if there is no such file, it is damaged, or it does not say its
   *     architecture
   */
  public static TrainedModel load(Path source, Engine engine) throws IOException {
    return load(source, "ema", engine);
  }

  /**
   * Reads a network from one of the files of weights in a checkpoint.
   *
   * @param source as above
   * @param weights the name of the file in a run or checkpoint: {@code ema}, {@code ema-0.9999} for
   *     a further average, {@code model} for no average
   * @param engine as above
   * @return the network
   * @throws IOException as above
   */
  public static TrainedModel load(Path source, String weights, Engine engine) throws IOException {
    Path file = weights(source, weights);
    String yaml;
    try (Safetensors tensors = Safetensors.open(file)) {
      yaml = tensors.metadata().get(Checkpoint.RECIPE);
    }
    if (yaml == null) {
      throw new IOException(
          file
              + " does not say its architecture: it has no metadata '"
              + Checkpoint.RECIPE
              + "'; name a file that training wrote");
    }
    DiT network = new DiT(Recipe.parse(file.toString(), yaml).dit());
    ParameterStore parameters = new ParameterStore(engine, network.parameters());
    try {
      Weights.load(file, parameters);
    } catch (IOException | RuntimeException e) {
      parameters.close();
      throw e;
    }
    return new TrainedModel(network, parameters);
  }

  /**
   * The file of weights that a path stands for.
   *
   * @param source a run directory (its newest whole checkpoint is taken), a checkpoint folder or a
   *     file
   * @param name the name of the file in a run or checkpoint, without extension
   * @return the file
   * @throws IOException if there is none
   */
  static Path weights(Path source, String name) throws IOException {
    if (!Files.isDirectory(source)) {
      return source;
    }
    Path checkpoint = source;
    if (Files.exists(source.resolve(Checkpoint.MODEL))) {
      Checkpoint.verify(source);
    } else {
      checkpoint =
          Checkpoint.newestWhole(RunDirectory.open(source))
              .orElseThrow(() -> new IOException(source + " has no checkpoint yet"));
    }
    Path file = checkpoint.resolve(name + EXTENSION);
    if (Files.exists(file)) {
      return file;
    }
    try (Stream<Path> files = Files.list(checkpoint)) {
      throw new IOException(
          files
              .map(each -> each.getFileName().toString())
              .filter(each -> each.equals(Checkpoint.MODEL) || each.startsWith("ema"))
              .map(each -> each.substring(0, each.length() - EXTENSION.length()))
              .sorted()
              .collect(Collectors.joining(", ", file + ": there is no such file; there are ", "")));
    }
  }

  /** {@return the network as a field} */
  public TrainableVelocity field() {
    return DataParallelField.of(network, parameters);
  }

  /** {@return its architecture} */
  public DiTConfig config() {
    return network.config();
  }

  @Override
  public void close() {
    parameters.close();
  }
}
