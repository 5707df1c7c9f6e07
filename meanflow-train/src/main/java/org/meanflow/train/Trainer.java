package org.meanflow.train;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Objects;
import java.util.function.LongFunction;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;
import org.meanflow.core.field.TrainableVelocity;
import org.meanflow.core.objective.Loss;
import org.meanflow.core.objective.MeanFlowObjective;
import org.meanflow.nn.DataParallelField;
import org.meanflow.nn.VelocityNetwork;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.OptimizerKernels;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.train.data.BatchLoader;
import org.meanflow.train.data.DataException;
import org.meanflow.train.data.DataOrder;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.optim.AdamWConfig;
import org.meanflow.train.optim.Ema;
import org.meanflow.train.optim.LearningRate;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Trains a network: each {@link #step} draws a batch, evaluates the MeanFlow objective, and applies
 * AdamW and the moving averages.
 *
 * <p>A batch may be split: over the devices of a {@link GradientReducer}, and on each over parts
 * computed one after the other. The gradient is the mean over the whole batch. All randomness is a
 * function of (seed, step, part), where part = rank·accumulate + micro-batch: so 4 devices draw
 * what one device with 4 micro-batches draws, and a trainer restored from a {@link Checkpoint} goes
 * on exactly as if it had never stopped.
 */
public final class Trainer implements AutoCloseable {
  private static final Logger log = LoggerFactory.getLogger(Trainer.class);

  private final Engine engine;
  private final BatchLoader loader;
  private final Settings settings;
  private final DataOrder order;
  private final VelocityNetwork network;
  private final ParameterStore parameters;
  private final List<MovingAverage> averages;
  private final Tensor firstMoments;
  private final Tensor secondMoments;
  private final TrainableVelocity field;
  private final GradientReducer reducer;
  private final Guard guard;
  private final int parts;
  private long step;

  /**
   * What to optimise and how.
   *
   * @param objective the objective of each step
   * @param adamW constants of the optimiser and of clipping
   * @param rate learning rate of each step
   * @param averages decays of the moving averages, the one to sample from first; at least one
   * @param batch samples in a step, over all devices, ≥ 1
   * @param accumulate micro-batches that a device computes its part of a batch in, ≥ 1
   * @param guard what happens to a step that must not be applied
   * @param seed seed of all randomness
   */
  public record Settings(
      LongFunction<MeanFlowObjective> objective,
      AdamWConfig adamW,
      LearningRate rate,
      List<Ema> averages,
      int batch,
      int accumulate,
      Guard.Config guard,
      long seed) {

    /** Refuses an empty batch or list, and micro-batches of different sizes. */
    public Settings {
      averages = List.copyOf(averages);
      if (averages.isEmpty()) {
        throw new IllegalArgumentException("averages must have at least one element, got none");
      }
      requireMultiple(batch, accumulate, "accumulate");
    }

    /**
     * Settings with one moving average, whole batches, and a guard that stops at what is not
     * finite.
     *
     * @param objective the objective of each step
     * @param adamW constants of the optimiser and of clipping
     * @param rate learning rate of each step
     * @param ema decay of the moving average
     * @param batch samples in a step, ≥ 1
     * @param seed seed of all randomness
     */
    public Settings(
        LongFunction<MeanFlowObjective> objective,
        AdamWConfig adamW,
        LearningRate rate,
        Ema ema,
        int batch,
        long seed) {
      this(objective, adamW, rate, List.of(ema), batch, 1, Guard.Config.DEFAULT, seed);
    }

    private static void requireMultiple(int batch, int parts, String of) {
      if (batch < 1 || parts < 1 || batch % parts != 0) {
        throw new IllegalArgumentException(
            "batch must be a multiple >= 1 of %s (%d), got %d".formatted(of, parts, batch));
      }
    }
  }

  /**
   * A trainer at step 0, with parameters initialised from the seed.
   *
   * @param engine computes; stays the caller's to close
   * @param network the structure to train
   * @param data what to train on
   * @param settings what to optimise and how
   */
  public Trainer(Engine engine, VelocityNetwork network, ImageDataset data, Settings settings) {
    this(engine, network, data, settings, GradientReducer.NONE);
  }

  /**
   * A trainer at step 0 on one of several devices, with parameters initialised from the seed.
   *
   * @param engine computes; stays the caller's to close
   * @param network the structure to train
   * @param data what to train on, the same on all devices
   * @param settings what to optimise and how, the same on all devices
   * @param reducer joins the devices; their number times {@code settings.accumulate} divides the
   *     batch
   */
  public Trainer(
      Engine engine,
      VelocityNetwork network,
      ImageDataset data,
      Settings settings,
      GradientReducer reducer) {
    this.engine = engine;
    this.settings = settings;
    this.network = network;
    this.reducer = reducer;
    this.guard = new Guard(settings.guard());
    this.parts = settings.accumulate() * reducer.size();
    Settings.requireMultiple(settings.batch(), parts, "accumulate times the number of devices");
    this.order = new DataOrder(settings.seed(), data.size(), settings.batch() / parts);
    this.loader =
        new BatchLoader(data, this::samples, settings.seed(), engine.precision().dataType());
    this.parameters = ParameterStore.initialized(engine, network.parameters(), settings.seed());
    this.averages =
        settings.averages().stream().map(ema -> new MovingAverage(ema, parameters)).toList();
    this.firstMoments = parameters.zeroBuffer();
    this.secondMoments = parameters.zeroBuffer();
    this.field = DataParallelField.of(network, parameters);
  }

  /**
   * Takes one step. A step that the guard skips counts, but changes nothing else.
   *
   * @return what it measured
   * @throws DataException if the data of the step cannot be read; then everything is as before
   * @throws BadStepException if the guard refuses the step for another reason than to skip it; then
   *     everything but the guard is as before
   */
  public StepReport step() throws DataException {
    double waited = loader.secondsWaited();
    Evaluation evaluation = evaluate();
    double norm = Double.NaN;
    if (evaluation.isFinite()) {
      if (reducer.size() > 1) {
        reducer.average(parameters.gradients());
      }
      norm = Math.sqrt(parameters.squaredGradientNorm());
    }
    double error = evaluation.meanSquaredError;
    double rate = settings.rate().at(step) * guard.rateFactor();
    double spike = guard.zScore(error);
    String said = "";
    switch (guard.judge(evaluation.loss, error, norm, spike)) {
      case APPLY -> {
        if (spike > Guard.LOGGED_SPIKE) {
          said = spike(spike, evaluation);
          log.warn("step {}: {}", step, said);
        }
        apply(rate, norm);
      }
      case SKIP -> {
        said = "skipped: " + problem(evaluation, norm, spike);
        log.warn("step {} is {}", step, said);
      }
      case ROLLBACK -> throw new BadStepException(step, problem(evaluation, norm, spike), true);
      case STOP -> throw new BadStepException(step, problem(evaluation, norm, spike), false);
    }
    waited = loader.secondsWaited() - waited;
    StepReport report =
        new StepReport(step, epoch(), evaluation.loss, error, rate, norm, waited, said);
    step++;
    return report;
  }

  /**
   * A batch whose gradients, unless something is not finite, are in the parameter store, as the
   * mean over this device's part.
   *
   * @param loss mean over the batch
   * @param meanSquaredError mean over the batch
   * @param brokenLayer where this device first saw something that is not finite; {@code null} if it
   *     saw nothing
   * @param samples data-set indices of the samples whose loss is not finite or, if all are, of the
   *     one with the largest; on this device
   */
  private record Evaluation(
      double loss, double meanSquaredError, @Nullable String brokenLayer, List<Integer> samples) {
    boolean isFinite() {
      return Double.isFinite(loss) && Double.isFinite(meanSquaredError);
    }
  }

  private Evaluation evaluate() throws DataException {
    parameters.clearGradients();
    MeanFlowObjective objective = settings.objective().apply(step);
    int count = settings.accumulate();
    double[] sums = new double[2]; // of loss and squared error
    String brokenLayer = null;
    List<Integer> broken = new ArrayList<>();
    int worst = -1;
    double largest = Double.NEGATIVE_INFINITY;
    for (int micro = 0; micro < count; micro++) {
      int part = reducer.rank() * count + micro;
      ImageDataset.Batch batch = loader.take(step * count + micro);
      int[] indices = samples(step * count + micro).indices();
      try (MeanFlowObjective.Result result =
          objective.evaluate(field, batch.x(), batch.labels(), settings.seed(), step, part)) {
        Loss loss = result.loss();
        sums[0] += loss.value();
        sums[1] += loss.meanSquaredError();
        for (int i = 0; i < indices.length; i++) {
          if (!Double.isFinite(loss.perSample()[i])) {
            broken.add(indices[i]);
          } else if (loss.squaredError()[i] > largest) {
            largest = loss.squaredError()[i];
            worst = indices[i];
          }
        }
        if (Double.isFinite(sums[0])) {
          INDArray cotangent = loss.cotangent();
          result.pass().backward(count == 1 ? cotangent : cotangent.mul(1.0 / count));
        } else if (brokenLayer == null) {
          brokenLayer =
              Objects.requireNonNullElse(
                  result.pass().firstNonFinite(), "no layer (the target or the data)");
        }
      }
    }
    sums[0] /= count;
    sums[1] /= count;
    reducer.average(sums);
    return new Evaluation(
        sums[0], sums[1], brokenLayer, broken.isEmpty() ? List.of(worst) : broken);
  }

  /** The samples of this device's micro-batches, one after the other. */
  private DataOrder.Samples samples(long number) {
    int count = settings.accumulate();
    return order.samples(number / count * parts + reducer.rank() * (long) count + number % count);
  }

  private void apply(double rate, double norm) {
    engine
        .kernels()
        .optimizer()
        .adamW(
            settings.adamW().update(step - guard.skipped(), rate, norm),
            parameters.values(),
            parameters.gradients(),
            firstMoments,
            secondMoments,
            averages.stream()
                .map(average -> average.at(step))
                .toArray(OptimizerKernels.Average[]::new));
  }

  private String problem(Evaluation evaluation, double norm, double spike) {
    String remedy = "lower optimizer.rate, set optimizer.clipNorm or look at the data of this step";
    if (!evaluation.isFinite()) {
      return evaluation.brokenLayer == null
          ? "the loss is not finite on another device; " + remedy
          : "the loss is not finite for sample %s of the data, first in %s; %s"
              .formatted(listed(evaluation.samples), evaluation.brokenLayer, remedy);
    }
    return Double.isFinite(norm)
        ? spike(spike, evaluation)
        : "the gradient is not finite, first in %s; the largest error has sample %s of the data; %s"
            .formatted(brokenGradient(), listed(evaluation.samples), remedy);
  }

  private static String spike(double zScore, Evaluation evaluation) {
    return String.format(
        Locale.ROOT,
        "the mean squared error %.4g is a spike, z-score %.1f; the largest has sample %s of the"
            + " data",
        evaluation.meanSquaredError,
        zScore,
        listed(evaluation.samples));
  }

  private static String listed(List<Integer> samples) {
    String first = samples.stream().limit(5).map(String::valueOf).collect(Collectors.joining(", "));
    return samples.size() > 5 ? first + ", … (%d in all)".formatted(samples.size()) : first;
  }

  /** The parameter whose gradient broke first: the backward pass comes to the last one first. */
  private String brokenGradient() {
    for (Parameter parameter : parameters.layout().parameters().reversed()) {
      Tensor gradient = parameters.gradient(parameter);
      if (!Double.isFinite(engine.kernels().optimizer().squaredNorm(gradient))) {
        return parameter.name();
      }
    }
    return "no parameter alone (the sum of squares overflows)";
  }

  private long epoch() {
    return order.epoch(step * parts);
  }

  /** {@return how many steps have been taken} */
  public long stepsTaken() {
    return step;
  }

  /** {@return the field with the parameters being trained} */
  public TrainableVelocity field() {
    return field;
  }

  /** {@return the field with the first moving average, which is what to sample from} */
  public TrainableVelocity averagedField() {
    return DataParallelField.of(network, average());
  }

  /** {@return the parameters being trained} */
  public ParameterStore parameters() {
    return parameters;
  }

  /** {@return the first moving average of the parameters} */
  public ParameterStore average() {
    return averages.getFirst().values();
  }

  /** {@return the moving averages of the parameters, in the order of the settings} */
  public List<MovingAverage> averages() {
    return averages;
  }

  /** {@return how many samples the steps taken have seen} */
  public long samplesSeen() {
    return step * settings.batch();
  }

  /** {@return samples in a step, over all devices} */
  int batch() {
    return settings.batch();
  }

  /** {@return the seed of all randomness} */
  public long seed() {
    return settings.seed();
  }

  /**
   * Starts from the parameters as they are now: the moving averages begin there. For parameters
   * that were read or changed before the first step.
   */
  public void startFromParameters() {
    averages.forEach(average -> average.startFrom(parameters));
  }

  /** {@return what decides whether a step is applied} */
  Guard guard() {
    return guard;
  }

  /** {@return the first moments of AdamW, in the layout of the parameters} */
  Tensor firstMoments() {
    return firstMoments;
  }

  /** {@return the second moments of AdamW, in the layout of the parameters} */
  Tensor secondMoments() {
    return secondMoments;
  }

  /** Goes on at another step, once all numbers have been restored. */
  void restore(long restoredStep, Guard.State guardState) {
    step = restoredStep;
    guard.restore(guardState);
  }

  @Override
  public void close() {
    loader.close();
    parameters.close();
    averages.forEach(MovingAverage::close);
    firstMoments.close();
    secondMoments.close();
  }
}
