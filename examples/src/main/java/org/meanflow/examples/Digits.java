package org.meanflow.examples;

import java.io.IOException;
import java.nio.file.Path;
import java.util.stream.IntStream;
import org.meanflow.core.objective.AdaptiveLoss;
import org.meanflow.core.objective.Guidance;
import org.meanflow.core.objective.MeanFlowObjective;
import org.meanflow.core.objective.Reduction;
import org.meanflow.core.path.LinearPath;
import org.meanflow.core.time.TimePairSampler;
import org.meanflow.nn.dit.DiT;
import org.meanflow.nn.dit.DiTConfig;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;
import org.meanflow.sample.ImageGrid;
import org.meanflow.sample.MeanFlowSampler;
import org.meanflow.sample.ProgressListener;
import org.meanflow.sample.SamplingPipeline;
import org.meanflow.train.Trainer;
import org.meanflow.train.data.DataSource;
import org.meanflow.train.data.IdxDataset;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.optim.AdamWConfig;
import org.meanflow.train.optim.Ema;
import org.meanflow.train.optim.LearningRate;
import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * The library without recipes and run directories: trains on the bundled digits and draws new ones.
 * The code of the README.
 */
public final class Digits {
  private Digits() {}

  /**
   * Trains and draws.
   *
   * @param arguments number of steps and the .png to write; default: 3000 digits.png
   */
  public static void main(String[] arguments) throws IOException, InterruptedException {
    int steps = arguments.length > 0 ? Integer.parseInt(arguments[0]) : 3000;
    Path out = Path.of(arguments.length > 1 ? arguments[1] : "digits.png");

    ImageDataset data =
        IdxDataset.read(
            DataSource.resource("digits/train-images-idx3-ubyte.gz"),
            DataSource.resource("digits/train-labels-idx1-ubyte.gz"),
            10);
    DiT network = new DiT(DiTConfig.preset("S/7", 1, 28, 10));
    MeanFlowObjective objective =
        new MeanFlowObjective(
            new LinearPath(),
            TimePairSampler.paper(),
            Guidance.none(),
            new AdaptiveLoss(1, 1e-2, Reduction.SUM));
    Trainer.Settings settings =
        new Trainer.Settings(
            step -> objective,
            new AdamWConfig(0.9, 0.95, 1e-8, 0, 1),
            new LearningRate(1e-3, 100, LearningRate.Kind.COSINE, steps, 0),
            new Ema(0.999, true),
            64,
            0);
    try (Engine engine = Engines.create(null, Precision.FP32);
        Trainer trainer = new Trainer(engine, network, data, settings)) {
      while (trainer.stepsTaken() < steps) {
        System.out.println(trainer.step());
      }
      SamplingPipeline pipeline =
          new SamplingPipeline(
              trainer.averagedField(),
              data.imageShape(),
              MeanFlowSampler.oneStep(),
              64,
              engine.precision().dataType());
      int[] labels = IntStream.range(0, 10).toArray();
      INDArray digits = pipeline.generate(80, labels, 0, ProgressListener.NONE);
      new ImageGrid(10, 2, 2).writePng(out, digits);
    }
  }
}
