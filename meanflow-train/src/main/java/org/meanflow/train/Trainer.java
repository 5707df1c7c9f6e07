package org.meanflow.train;

import java.util.Objects;
import java.util.function.LongFunction;
import org.meanflow.core.field.TrainableVelocity;
import org.meanflow.core.objective.MeanFlowObjective;
import org.meanflow.nn.DataParallelField;
import org.meanflow.nn.VelocityNetwork;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.OptimizerKernels;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.train.data.DataOrder;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.optim.AdamWConfig;
import org.meanflow.train.optim.Ema;
import org.meanflow.train.optim.LearningRate;

/**
 * Trains a network: each {@link #step} draws a batch, evaluates the MeanFlow objective, and applies
 * AdamW and the moving average. All randomness is a function of (seed, step), so a trainer restored
 * from a {@link Checkpoint} goes on exactly as if it had never stopped.
 */
public final class Trainer implements AutoCloseable {
  private final Engine engine;
  private final ImageDataset data;
  private final Settings settings;
  private final DataOrder order;
  private final VelocityNetwork network;
  private final ParameterStore parameters;
  private final ParameterStore average;
  private final Tensor firstMoments;
  private final Tensor secondMoments;
  private final TrainableVelocity field;
  private long step;

  /**
   * What to optimise and how.
   *
   * @param objective the objective of each step
   * @param adamW constants of the optimiser and of clipping
   * @param rate learning rate of each step
   * @param ema decay of the moving average
   * @param batch samples in a step, ≥ 1
   * @param seed seed of all randomness
   */
  public record Settings(
      LongFunction<MeanFlowObjective> objective,
      AdamWConfig adamW,
      LearningRate rate,
      Ema ema,
      int batch,
      long seed) {

    /** Refuses an empty batch. */
    public Settings {
      if (batch < 1) {
        throw new IllegalArgumentException("batch must be >= 1, got " + batch);
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
    this.engine = engine;
    this.data = data;
    this.settings = settings;
    this.network = network;
    this.order = new DataOrder(settings.seed(), data.size(), settings.batch());
    this.parameters = ParameterStore.initialized(engine, network.parameters(), settings.seed());
    this.average = parameters.copy();
    this.firstMoments = parameters.zeroBuffer();
    this.secondMoments = parameters.zeroBuffer();
    this.field = DataParallelField.of(network, parameters);
  }

  /**
   * Takes one step.
   *
   * @return what it measured
   * @throws NonFiniteException if the loss or the gradient is not finite; then the parameters are
   *     as before
   */
  public StepReport step() {
    ImageDataset.Batch batch = data.batch(order.indices(step), engine.precision().dataType());
    parameters.clearGradients();
    MeanFlowObjective objective = settings.objective().apply(step);
    try (MeanFlowObjective.Result result =
        objective.evaluate(field, batch.x(), batch.labels(), settings.seed(), step, 0)) {
      double loss = result.loss().value();
      requireFinite(loss, "the loss", result);
      result.backward();
      OptimizerKernels optimizer = engine.kernels().optimizer();
      double norm = Math.sqrt(optimizer.squaredNorm(parameters.gradients()));
      requireFinite(norm, "the gradient", result);
      double rate = settings.rate().at(step);
      optimizer.adamW(
          settings.adamW().update(step, rate, norm),
          parameters.values(),
          parameters.gradients(),
          firstMoments,
          secondMoments,
          new OptimizerKernels.Average(settings.ema().decayAt(step), average.values()));
      StepReport report =
          new StepReport(
              step, order.epoch(step), loss, result.loss().meanSquaredError(), rate, norm);
      step++;
      return report;
    }
  }

  /** {@return how many steps have been taken} */
  public long stepsTaken() {
    return step;
  }

  /** {@return the field with the parameters being trained} */
  public TrainableVelocity field() {
    return field;
  }

  /** {@return the field with the moving average of the parameters, which is what to sample from} */
  public TrainableVelocity averagedField() {
    return DataParallelField.of(network, average);
  }

  /** {@return the parameters being trained} */
  public ParameterStore parameters() {
    return parameters;
  }

  /** {@return the moving average of the parameters} */
  public ParameterStore average() {
    return average;
  }

  /** {@return the first moments of AdamW, in the layout of the parameters} */
  Tensor firstMoments() {
    return firstMoments;
  }

  /** {@return the second moments of AdamW, in the layout of the parameters} */
  Tensor secondMoments() {
    return secondMoments;
  }

  /** Goes on at another step, once everything else has been restored. */
  void restoredAt(long restoredStep) {
    step = restoredStep;
  }

  private void requireFinite(double value, String what, MeanFlowObjective.Result result) {
    if (!Double.isFinite(value)) {
      String where = result.pass().firstNonFinite();
      throw new NonFiniteException(
          step, what, Objects.requireNonNullElse(where, "no layer (the target or the data)"));
    }
  }

  @Override
  public void close() {
    parameters.close();
    average.close();
    firstMoments.close();
    secondMoments.close();
  }
}
