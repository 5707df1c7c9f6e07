package org.meanflow.train;

import java.io.IOException;
import java.util.List;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.dit.DiT;
import org.meanflow.nn.engine.Engine;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.recipe.Recipe;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/** A recipe, a data set and a trainer of a few milliseconds a step. */
final class TinyRun {
  private static final List<String> TINY =
      List.of(
          "model.imageSize=8",
          "model.patch=4",
          "flow.guidance.omega=1",
          "model.width=16",
          "model.depth=2",
          "model.heads=2",
          "model.classes=3",
          "model.timeFeatures=8",
          "run.batch=6",
          "run.steps=8",
          "run.previewEvery=4",
          "run.checkpointEvery=4",
          "schedule.warmupSteps=2");

  private TinyRun() {}

  /** Twenty grey images, the level told by the class; in the second of a batch may be a NaN. */
  record Greys(boolean broken) implements ImageDataset {
    @Override
    public int size() {
      return 20;
    }

    @Override
    public int classes() {
      return 3;
    }

    @Override
    public long[] imageShape() {
      return new long[] {1, 8, 8};
    }

    @Override
    public Batch batch(int[] indices, DataType type) {
      INDArray x = Nd4j.create(type, indices.length, 1, 8, 8);
      int[] labels = new int[indices.length];
      for (int i = 0; i < labels.length; i++) {
        labels[i] = indices[i] % 3;
        x.slice(i).assign(0.5 * labels[i] - 0.5);
      }
      if (broken) {
        x.putScalar(new long[] {1, 0, 3, 3}, Double.NaN);
      }
      return new Batch(x, labels);
    }
  }

  static Recipe recipe(String... more) throws IOException {
    return Recipe.load("digits").with(TINY).with(List.of(more));
  }

  static Trainer trainer(Engine engine, Recipe recipe, boolean broken) {
    return trainer(engine, recipe, new Greys(broken), GradientReducer.NONE);
  }

  static Trainer trainer(Engine engine, Recipe recipe, ImageDataset data, GradientReducer reducer) {
    Trainer.Settings settings =
        new Trainer.Settings(
            recipe::objective,
            recipe.adamW(),
            recipe.learningRate(),
            recipe.averages(),
            recipe.run().batch(),
            recipe.run().accumulate(),
            recipe.guard().config(),
            recipe.run().seed());
    return new Trainer(engine, new DiT(recipe.dit()), data, settings, reducer);
  }

  static float[] values(ParameterStore store) {
    return store.engine().read(store.values()).data().asFloat();
  }
}
