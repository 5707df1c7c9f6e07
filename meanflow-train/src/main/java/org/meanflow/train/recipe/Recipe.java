package org.meanflow.train.recipe;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.meanflow.core.objective.MeanFlowObjective;
import org.meanflow.nn.dit.DiTConfig;
import org.meanflow.train.data.DataException;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.optim.AdamWConfig;
import org.meanflow.train.optim.Ema;
import org.meanflow.train.optim.LearningRate;

/**
 * All that a training run needs to know. In YAML each section is a mapping, its keys are the
 * components of its record; a key that is {@code @Nullable} there or has a {@code @Default} may be
 * left out. Everything else must be given, and nothing else may be.
 *
 * @param model the network
 * @param flow what is trained
 * @param optimizer AdamW
 * @param schedule how the learning rate changes
 * @param ema the moving averages of the parameters
 * @param data what is trained on
 * @param run how long and how the training runs
 * @param guard what happens to a step that must not be applied
 */
public record Recipe(
    ModelSection model,
    FlowSection flow,
    OptimizerSection optimizer,
    ScheduleSection schedule,
    EmaSection ema,
    DataSection data,
    RunSection run,
    @Default("{}") GuardSection guard) {

  /** Recipes in the resource folder {@code recipes}; each is one file and one word here. */
  private static final List<String> SHIPPED =
      List.of("cifar10", "digits", "fashion", "imagenet-latent-b4", "imagenet-latent-xl2", "mnist");

  private static final int MOST_BYTES = 1 << 16;

  /** Refuses an impossible network, and one with classes for data without labels. */
  public Recipe {
    int classes = model.dit().classes();
    if (classes > 0 && !data.labelled()) {
      throw new IllegalArgumentException(
          "model.classes must be 0 where data.labels is not given, got " + classes);
    }
  }

  /** {@return the names of the recipes that come with the library, sorted} */
  public static List<String> shipped() {
    return SHIPPED;
  }

  /**
   * Reads a recipe.
   *
   * @param nameOrPath the name of a {@linkplain #shipped shipped} recipe, or the path of a file
   *     whose name ends in {@code .yaml}
   * @return the recipe
   * @throws RecipeException if there is no such recipe, it is no YAML, or a key or value is wrong
   */
  public static Recipe load(String nameOrPath) throws RecipeException {
    if (nameOrPath.endsWith(".yaml") || nameOrPath.endsWith(".yml")) {
      return parse(nameOrPath, text(Path.of(nameOrPath)));
    }
    if (!SHIPPED.contains(nameOrPath)) {
      throw new RecipeException(
          "recipe " + nameOrPath,
          "is unknown; known are %s, or name a .yaml file".formatted(String.join(", ", SHIPPED)));
    }
    try (InputStream resource = Recipe.class.getResourceAsStream(resource(nameOrPath))) {
      if (resource == null) {
        throw new AssertionError("no resource " + resource(nameOrPath));
      }
      byte[] text = resource.readAllBytes();
      return parse("recipe " + nameOrPath, new String(text, StandardCharsets.UTF_8));
    } catch (RecipeException e) {
      throw e;
    } catch (IOException e) {
      throw new RecipeException("recipe " + nameOrPath, "cannot be read: " + e.getMessage(), e);
    }
  }

  private static String resource(String name) {
    return "/org/meanflow/train/recipes/" + name + ".yaml";
  }

  private static String text(Path file) throws RecipeException {
    try {
      if (Files.size(file) > MOST_BYTES) {
        throw new RecipeException(
            file.toString(), "is no recipe: it has more than %d bytes".formatted(MOST_BYTES));
      }
      return Files.readString(file);
    } catch (RecipeException e) {
      throw e;
    } catch (NoSuchFileException e) {
      throw new RecipeException(file.toString(), "there is no such file", e);
    } catch (IOException e) {
      throw new RecipeException(file.toString(), "cannot be read: " + e.getMessage(), e);
    }
  }

  /**
   * Reads a recipe from text.
   *
   * @param source where the text comes from, for messages
   * @param yaml the text
   * @return the recipe
   * @throws RecipeException if it is no YAML, or a key or value is wrong
   */
  public static Recipe parse(String source, String yaml) throws RecipeException {
    return bind(source, Yaml.parse(source, yaml));
  }

  private static Recipe bind(String source, JsonNode tree) throws RecipeException {
    RecordBinder binder = new RecordBinder(source);
    if (tree instanceof ObjectNode sections && sections.path("model").has("preset")) {
      var preset = binder.bind("model", sections.path("model"), ModelSection.Preset.class);
      sections.set("model", RecordBinder.tree(preset.model()));
    }
    return binder.bind("", tree, Recipe.class);
  }

  /**
   * This recipe with other values.
   *
   * @param overrides each {@code key.path=value}, the value in YAML; applied in turn. {@code null}
   *     takes an optional key away.
   * @return a new recipe
   * @throws RecipeException if an override has no {@code =}, or the recipe that results is wrong
   */
  public Recipe with(List<String> overrides) throws RecipeException {
    String source = "override " + String.join(", ", overrides);
    ObjectNode tree = RecordBinder.tree(this);
    for (String override : overrides) {
      int equals = override.indexOf('=');
      if (equals < 1) {
        throw new RecipeException(source, "must be KEY=VALUE, got " + override);
      }
      List<String> keys = Arrays.asList(override.substring(0, equals).strip().split("\\.", -1));
      JsonNode value = Yaml.parse(source, override.substring(equals + 1));
      ObjectNode section = tree;
      for (String key : keys.subList(0, keys.size() - 1)) {
        section = section.get(key) instanceof ObjectNode known ? known : section.putObject(key);
      }
      section.set(keys.getLast(), value.isMissingNode() ? section.nullNode() : value);
    }
    return bind(source, tree);
  }

  /**
   * This recipe as text.
   *
   * @return YAML from which {@link #parse} reads an equal recipe
   */
  public String toYaml() {
    return Yaml.write(RecordBinder.tree(this));
  }

  /** {@return the network's architecture} */
  public DiTConfig dit() {
    return model.dit();
  }

  /**
   * The objective of a step.
   *
   * @param step training step, counted from 0
   * @return the objective
   */
  public MeanFlowObjective objective(long step) {
    return flow.objective(step);
  }

  /** {@return the optimiser} */
  public AdamWConfig adamW() {
    return optimizer.adamW();
  }

  /** {@return the learning rate of each step} */
  public LearningRate learningRate() {
    return schedule.learningRate(optimizer.rate(), run.steps());
  }

  /** {@return the moving averages of the parameters, the one to sample from first} */
  public List<Ema> averages() {
    return ema.averages();
  }

  /**
   * Reads the data set and checks that the network fits it.
   *
   * @return the data set, to be closed
   * @throws DataException if a file is missing or damaged, or a label is not below {@code
   *     model.classes}
   * @throws RecipeException if the images have another shape than the model
   */
  public ImageDataset dataset() throws DataException, RecipeException {
    ImageDataset dataset = data.read(model);
    long[] expected = {model.channels(), model.imageSize(), model.imageSize()};
    if (!Arrays.equals(dataset.imageShape(), expected)) {
      dataset.close();
      throw new RecipeException(
          data.images(),
          "images must have the shape that model.channels and model.imageSize say, %s, got %s"
              .formatted(Arrays.toString(expected), Arrays.toString(dataset.imageShape())));
    }
    return dataset;
  }
}
