package org.meanflow.examples;

import java.io.IOException;
import java.nio.file.Path;
import java.time.LocalDateTime;
import java.time.ZoneId;
import java.util.List;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.train.TrainingRun;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.recipe.Recipe;
import org.meanflow.train.run.RunDirectory;

/**
 * Trains on MNIST by the shipped recipe: what {@code ./meanflow train --recipe mnist --data FOLDER}
 * does, as code.
 */
public final class Mnist {
  private Mnist() {}

  /**
   * Trains.
   *
   * @param arguments the folder with MNIST's IDX files, plain or gzip'd, and optionally overrides
   *     of the recipe, {@code key=value}
   */
  public static void main(String[] arguments) throws IOException {
    if (arguments.length == 0) {
      System.err.println("usage: Mnist FOLDER [key=value]...");
      System.exit(2);
    }
    String folder = Path.of(arguments[0]).toAbsolutePath().toString();
    Recipe recipe =
        Recipe.load("mnist")
            .with(List.of("data.folder='" + folder.replace("'", "''") + "'"))
            .with(List.of(arguments).subList(1, arguments.length));
    Path root = RunDirectory.defaultRoot("mnist", LocalDateTime.now(ZoneId.systemDefault()));
    try (ImageDataset dataset = recipe.dataset();
        Engine engine = Engines.create(null, recipe.run().precision())) {
      RunDirectory directory = RunDirectory.create(root, recipe);
      new TrainingRun(recipe, directory, dataset, engine).run(null);
    }
  }
}
