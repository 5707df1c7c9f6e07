package org.meanflow.train;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Map;
import org.meanflow.nn.autodiff.ParameterLayout;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.weights.AtomicFile;
import org.meanflow.nn.weights.Safetensors;
import org.meanflow.nn.weights.SafetensorsWriter;
import org.meanflow.nn.weights.Weights;
import org.meanflow.train.run.RunDirectory;

/**
 * A trainer's state in a folder: {@code model.safetensors}, {@code ema.safetensors} (each with the
 * recipe in its metadata, so that it can be sampled on its own), {@code optimizer.safetensors} and
 * {@code state.json}. The folder appears as a whole or not at all.
 */
public final class Checkpoint {
  /** The file with the trained parameters. */
  public static final String MODEL = "model.safetensors";

  /** The file with their moving average. */
  public static final String AVERAGE = "ema.safetensors";

  /** The metadata key of the recipe, as YAML. */
  public static final String RECIPE = "meanflow.recipe";

  private static final String OPTIMIZER = "optimizer.safetensors";
  private static final String STATE = "state.json";
  private static final String FIRST_MOMENTS = "exp_avg.";
  private static final String SECOND_MOMENTS = "exp_avg_sq.";
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
      Map<String, String> metadata = Map.of(RECIPE, recipe);
      Weights.save(temporary.resolve(MODEL), trainer.parameters(), metadata);
      Weights.save(temporary.resolve(AVERAGE), trainer.average(), metadata);
      Engine engine = trainer.parameters().engine();
      ParameterLayout layout = trainer.parameters().layout();
      SafetensorsWriter moments = new SafetensorsWriter();
      Weights.add(moments, FIRST_MOMENTS, engine, layout, trainer.firstMoments());
      Weights.add(moments, SECOND_MOMENTS, engine, layout, trainer.secondMoments());
      moments.write(temporary.resolve(OPTIMIZER));
      ObjectNode state = JSON.createObjectNode().put("step", trainer.stepsTaken());
      byte[] text = state.toPrettyString().getBytes(StandardCharsets.UTF_8);
      AtomicFile.write(temporary.resolve(STATE), channel -> channel.write(ByteBuffer.wrap(text)));
      Path replaced = folder.resolveSibling("." + folder.getFileName() + ".replaced");
      RunDirectory.delete(replaced);
      if (Files.exists(folder)) {
        Files.move(folder, replaced, StandardCopyOption.ATOMIC_MOVE);
      }
      Files.move(temporary, folder, StandardCopyOption.ATOMIC_MOVE);
      RunDirectory.delete(replaced);
    } catch (IOException e) {
      RunDirectory.delete(temporary);
      throw e;
    }
  }

  /**
   * Restores a trainer that was made with the same recipe.
   *
   * @param folder a folder that {@link #write} made
   * @param trainer where to put the state; of no use if this fails
   * @throws IOException if the folder is not a whole checkpoint or does not fit the trainer
   */
  public static void read(Path folder, Trainer trainer) throws IOException {
    if (!Files.isRegularFile(folder.resolve(STATE))) {
      throw new IOException(folder + " is not a checkpoint: it has no " + STATE);
    }
    JsonNode step = JSON.readTree(Files.readAllBytes(folder.resolve(STATE))).path("step");
    if (!step.canConvertToLong() || step.longValue() < 0) {
      throw new IOException(
          "%s: step must be an integer >= 0, got %s".formatted(folder.resolve(STATE), step));
    }
    Weights.load(folder.resolve(MODEL), trainer.parameters());
    Weights.load(folder.resolve(AVERAGE), trainer.average());
    Engine engine = trainer.parameters().engine();
    ParameterLayout layout = trainer.parameters().layout();
    Path file = folder.resolve(OPTIMIZER);
    try (Safetensors moments = Safetensors.open(file)) {
      Weights.read(moments, file, FIRST_MOMENTS, engine, layout, trainer.firstMoments());
      Weights.read(moments, file, SECOND_MOMENTS, engine, layout, trainer.secondMoments());
    }
    trainer.restoredAt(step.longValue());
  }
}
