package org.meanflow.examples;

import java.nio.file.Path;
import java.util.Arrays;
import java.util.concurrent.Callable;
import java.util.stream.IntStream;
import me.tongfei.progressbar.ProgressBar;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.dit.DiTConfig;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Precision;
import org.meanflow.sample.EulerSampler;
import org.meanflow.sample.HeunSampler;
import org.meanflow.sample.MeanFlowSampler;
import org.meanflow.sample.SampleWriter;
import org.meanflow.sample.Sampler;
import org.meanflow.sample.SamplingPipeline;
import org.meanflow.sample.TimeGrid;
import org.meanflow.train.Progress;
import org.meanflow.train.TrainedModel;
import org.nd4j.linalg.api.ndarray.INDArray;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** Draws samples from a trained network. */
@Command(
    name = "sample",
    description = "Draws samples from a trained network, by default with one evaluation each.")
final class SampleCommand implements Callable<Integer> {

  /** How a sample is drawn. */
  enum Method {
    /** Steps of average velocity. */
    MEANFLOW,
    /** Euler's method on v = u(z, t, t). */
    EULER,
    /** Heun's method on v = u(z, t, t): two evaluations a step. */
    HEUN
  }

  @Option(
      names = "--checkpoint",
      required = true,
      paramLabel = "RUN_OR_FILE",
      description = "a run directory, a checkpoint folder or a .safetensors file")
  private Path checkpoint;

  @Option(
      names = "--weights",
      paramLabel = "W",
      defaultValue = "ema",
      description =
          "which weights of a run: ema, ema-0.9999 (a further average) or model (none)"
              + " (default: ${DEFAULT-VALUE})")
  private String weights;

  @Option(names = "--n", required = true, paramLabel = "N", description = "number of samples")
  private int count;

  @Option(
      names = "--nfe",
      paramLabel = "K",
      defaultValue = "1",
      description = "network evaluations for each sample (default: ${DEFAULT-VALUE})")
  private int evaluations;

  @Option(
      names = "--method",
      paramLabel = "M",
      defaultValue = "meanflow",
      description = "meanflow, or the ODE baselines euler, heun (default: ${DEFAULT-VALUE})")
  private Method method;

  @Option(
      names = "--labels",
      split = ",",
      paramLabel = "L",
      description = "classes to ask for, cycled over the samples (default: all in turn)")
  private int @Nullable [] labels;

  @Option(
      names = "--seed",
      paramLabel = "S",
      defaultValue = "0",
      description = "sample i is a function of (seed, i) (default: ${DEFAULT-VALUE})")
  private long seed;

  @Option(
      names = "--batch",
      paramLabel = "B",
      defaultValue = "64",
      description = "samples evaluated at once (default: ${DEFAULT-VALUE})")
  private int batch;

  @Option(
      names = "--out",
      required = true,
      paramLabel = "FILE",
      description =
          ".png: a grid; .npy: float32 [n, C, H, W] in [-1, 1], labels in NAME.labels.npy")
  private Path out;

  @Option(
      names = "--precision",
      paramLabel = "P",
      defaultValue = "fp32",
      description = "fp32, tf32, bf16 or fp64, where the engine has it; default: ${DEFAULT-VALUE}")
  private Precision precision;

  @Mixin private final CommonOptions common = new CommonOptions();
  @Spec private CommandSpec spec;

  @Override
  public Integer call() throws Exception {
    require(count >= 1, "--n must be >= 1, got " + count);
    require(evaluations >= 1, "--nfe must be >= 1, got " + evaluations);
    require(batch >= 1, "--batch must be >= 1, got " + batch);
    require(
        method != Method.HEUN || evaluations % 2 == 0,
        "--nfe must be even for heun, got " + evaluations);
    SampleWriter.requireExtension(out);
    try (Engine engine = Engines.create(common.engine, precision, common.threads);
        TrainedModel model = TrainedModel.load(checkpoint, weights, engine)) {
      DiTConfig config = model.config();
      int[] asked = labels(config.classes());
      long[] shape = {config.channels(), config.imageSize(), config.imageSize()};
      SamplingPipeline pipeline =
          new SamplingPipeline(model.field(), shape, sampler(), batch, precision.dataType());
      INDArray images;
      try (ProgressBar bar = Progress.bar("sampling", count)) {
        images = pipeline.generate(count, asked, seed, (done, total) -> bar.stepTo(done));
      }
      SampleWriter.write(out, images, asked == null ? null : SamplingPipeline.cycle(asked, count));
      spec.commandLine().getOut().println(out);
    }
    return 0;
  }

  private Sampler sampler() {
    return switch (method) {
      case MEANFLOW -> new MeanFlowSampler(TimeGrid.uniform(evaluations));
      case EULER -> new EulerSampler(TimeGrid.uniform(evaluations));
      case HEUN -> new HeunSampler(TimeGrid.uniform(evaluations / 2));
    };
  }

  private int @Nullable [] labels(int classes) {
    if (labels == null) {
      return classes == 0 ? null : IntStream.range(0, classes).toArray();
    }
    require(
        Arrays.stream(labels).allMatch(label -> label >= 0 && label < classes),
        "--labels must be in [0, %d) for this model, got %s"
            .formatted(classes, Arrays.toString(labels)));
    return labels;
  }

  private void require(boolean valid, String message) {
    if (!valid) {
      throw new ParameterException(spec.commandLine(), message);
    }
  }
}
