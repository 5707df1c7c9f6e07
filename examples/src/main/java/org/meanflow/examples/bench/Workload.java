package org.meanflow.examples.bench;

import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import org.meanflow.core.field.TrainableVelocity;
import org.meanflow.core.objective.AdaptiveLoss;
import org.meanflow.core.objective.DroppedTarget;
import org.meanflow.core.objective.Guidance;
import org.meanflow.core.objective.MeanFlowObjective;
import org.meanflow.core.objective.Reduction;
import org.meanflow.core.path.LinearPath;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.core.time.TimePairSampler;
import org.meanflow.nn.DataParallelField;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.dit.DiT;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.OptimizerKernels;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.sample.MeanFlowSampler;
import org.meanflow.sample.ProgressListener;
import org.meanflow.sample.SamplingPipeline;
import org.meanflow.train.Trainer;
import org.meanflow.train.data.DataException;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.optim.AdamWConfig;
import org.meanflow.train.optim.Ema;
import org.meanflow.train.optim.LearningRate;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.indexing.NDArrayIndex;

/** What is timed, on random weights. */
interface Workload extends AutoCloseable {
  /** Share of the samples with r ≠ t in {@link TimePairSampler#paper}. */
  double DISTINCT = 0.25;

  /** Does it once. */
  void run();

  @Override
  void close();

  /**
   * One training step and nothing else: noise and times drawn, objective, backward pass, AdamW and
   * moving average.
   */
  final class Step implements Workload {
    private static final double EMA_DECAY = 0.9999;
    private static final AdamWConfig ADAM_W =
        new AdamWConfig(0.9, 0.95, 1e-8, 0, Double.POSITIVE_INFINITY);
    private static final double RATE = 1e-4;

    private final Engine engine;
    private final MeanFlowObjective objective;
    private final ParameterStore parameters;
    private final ParameterStore average;
    private final Tensor firstMoments;
    private final Tensor secondMoments;
    private final TrainableVelocity field;
    private final Images images;
    private final INDArray x;
    private long step;

    Step(BenchConfig config, Engine engine, boolean guided, @Nullable Profile profile) {
      DiT network = new DiT(config.model());
      this.engine = engine;
      objective = objective(guided);
      parameters = randomParameters(network, engine);
      average = parameters.copy();
      firstMoments = parameters.zeroBuffer();
      secondMoments = parameters.zeroBuffer();
      field = field(network, parameters, profile);
      images = new Images(config);
      x = images.batch(IntStream.range(0, config.batch()).toArray(), type(engine)).x();
    }

    @Override
    public void run() {
      int[] labels = images.labels(step, (int) x.size(0));
      parameters.clearGradients();
      try (MeanFlowObjective.Result result = objective.evaluate(field, x, labels, 0, step, 0)) {
        result.backward();
        OptimizerKernels optimizer = engine.kernels().optimizer();
        double norm = Math.sqrt(parameters.squaredGradientNorm());
        if (!Double.isFinite(norm + result.loss().value())) {
          throw new IllegalStateException("loss or gradient is not finite");
        }
        optimizer.adamW(
            ADAM_W.update(step, RATE, norm),
            parameters.values(),
            parameters.gradients(),
            firstMoments,
            secondMoments,
            new OptimizerKernels.Average(EMA_DECAY, average.values()));
      }
      step++;
    }

    @Override
    public void close() {
      parameters.close();
      average.close();
      firstMoments.close();
      secondMoments.close();
    }
  }

  /** {@link Trainer#step}: what {@link Step} does, with everything that training adds to it. */
  final class TrainerStep implements Workload {
    private final Trainer trainer;

    TrainerStep(BenchConfig config, Engine engine, boolean guided) {
      MeanFlowObjective objective = objective(guided);
      trainer =
          new Trainer(
              engine,
              new DiT(config.model()),
              new Images(config),
              new Trainer.Settings(
                  step -> objective,
                  Step.ADAM_W,
                  new LearningRate(Step.RATE, 0, LearningRate.Kind.CONSTANT, 1, 1),
                  new Ema(Step.EMA_DECAY, false),
                  config.batch(),
                  0));
      randomize(trainer.parameters());
    }

    @Override
    public void run() {
      try {
        trainer.step();
      } catch (DataException e) {
        throw new AssertionError("images in memory", e);
      }
    }

    @Override
    public void close() {
      trainer.close();
    }
  }

  /** One batch of samples with one network evaluation each, drawing the noise included. */
  final class Sample implements Workload {
    private final ParameterStore parameters;
    private final SamplingPipeline pipeline;
    private final int batch;
    private final int[] labels;
    private long seed;

    Sample(BenchConfig config, Engine engine, @Nullable Profile profile) {
      DiT network = new DiT(config.model());
      batch = config.batch();
      parameters = randomParameters(network, engine);
      labels = IntStream.range(0, config.model().classes()).toArray();
      pipeline =
          new SamplingPipeline(
              field(network, parameters, profile),
              config.imageShape(),
              MeanFlowSampler.oneStep(),
              batch,
              type(engine));
    }

    @Override
    public void run() {
      try {
        INDArray images = pipeline.generate(batch, labels, seed++, ProgressListener.NONE);
        if (!Double.isFinite(images.getDouble(0))) {
          throw new IllegalStateException("a sample is not finite");
        }
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        throw new IllegalStateException(e);
      }
    }

    @Override
    public void close() {
      parameters.close();
    }
  }

  private static MeanFlowObjective objective(boolean guided) {
    return new MeanFlowObjective(
        new LinearPath(),
        TimePairSampler.paper(),
        guided ? new Guidance(2, 0, 0, 1, 0, DroppedTarget.VELOCITY) : Guidance.none(),
        new AdaptiveLoss(1, 1e-2, Reduction.SUM));
  }

  private static TrainableVelocity field(
      DiT network, ParameterStore parameters, @Nullable Profile profile) {
    TrainableVelocity field = DataParallelField.of(network, parameters);
    return profile == null ? field : profile.watch(field);
  }

  private static DataType type(Engine engine) {
    return engine.precision().dataType();
  }

  private static ParameterStore randomParameters(DiT network, Engine engine) {
    ParameterStore parameters = new ParameterStore(engine, network.parameters());
    randomize(parameters);
    return parameters;
  }

  /**
   * Normal numbers of standard deviation 0.02, around 1 for the gains of a normalisation. A million
   * of them, used again and again from another one on: a hundred million would take long, and leave
   * garbage that {@code peak_rss_mb} shows.
   */
  private static void randomize(ParameterStore parameters) {
    RandomStream random = new RandomStream(0, 0, Purpose.INITIALISATION);
    INDArray numbers = random.normalArray(DataType.FLOAT, 1 << 20).muli(0.02);
    Engine engine = parameters.engine();
    for (Parameter parameter : parameters.layout().parameters()) {
      Tensor value = parameters.value(parameter);
      boolean gain = parameter.name().endsWith("_norm.weight");
      for (long done = 0; done < value.size(); ) {
        long from = random.nextInt((int) numbers.length());
        long count = Math.min(numbers.length() - from, value.size() - done);
        INDArray some = numbers.get(NDArrayIndex.interval(from, from + count));
        engine.write(gain ? some.add(1) : some, value.view(done, count));
        done += count;
      }
    }
  }

  /** As many random images as a batch has, with labels; the data of a step costs a copy. */
  final class Images implements ImageDataset {
    private final BenchConfig config;
    private final INDArray values;

    Images(BenchConfig config) {
      this.config = config;
      long[] image = config.imageShape();
      values =
          new RandomStream(0, 0, Purpose.AUGMENTATION)
              .normalArray(DataType.FLOAT, config.batch(), image[0], image[1], image[2]);
    }

    @Override
    public int size() {
      return config.batch();
    }

    @Override
    public int classes() {
      return config.model().classes();
    }

    @Override
    public long[] imageShape() {
      return config.imageShape();
    }

    @Override
    public Batch batch(int[] indices, DataType type) {
      return new Batch(values.castTo(type), labels(0, indices.length));
    }

    int @Nullable [] labels(long step, int batch) {
      RandomStream random = new RandomStream(0, step, Purpose.DATA_ORDER);
      return IntStream.range(0, batch).map(i -> random.nextInt(classes())).toArray();
    }
  }
}
