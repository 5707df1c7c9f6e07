package org.meanflow.train;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
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
    Path file = weights(source);
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

  private static Path weights(Path source) throws IOException {
    if (!Files.isDirectory(source)) {
      return source;
    }
    if (Files.exists(source.resolve(Checkpoint.AVERAGE))) {
      return source.resolve(Checkpoint.AVERAGE);
    }
    Path newest =
        RunDirectory.open(source)
            .newestCheckpoint()
            .orElseThrow(() -> new IOException(source + " has no checkpoint yet"));
    return newest.resolve(Checkpoint.AVERAGE);
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
