package org.meanflow.train;

import org.jspecify.annotations.Nullable;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.engine.OptimizerKernels;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.train.optim.Ema;

/**
 * A moving average of parameters that does not stand still at decays near 1: below float64 it has a
 * second buffer with what rounding took from the first.
 */
public final class MovingAverage implements AutoCloseable {
  private final Ema ema;
  private final ParameterStore values;
  private final @Nullable Tensor remainder;

  /**
   * An average that begins with the parameters as they are.
   *
   * @param ema its decay
   * @param parameters what to average; not changed
   */
  MovingAverage(Ema ema, ParameterStore parameters) {
    this.ema = ema;
    this.values = parameters.copy();
    this.remainder =
        parameters.engine().precision() == Precision.FP64 ? null : parameters.zeroBuffer();
  }

  /** {@return its decay} */
  public Ema ema() {
    return ema;
  }

  /** {@return the average, rounded to the engine's precision} */
  public ParameterStore values() {
    return values;
  }

  /** What rounding took; {@code null} in float64. */
  @Nullable Tensor remainder() {
    return remainder;
  }

  /** Begins anew with the parameters as they are. */
  void startFrom(ParameterStore parameters) {
    values.engine().kernels().elementwise().copy(parameters.values(), values.values());
    if (remainder != null) {
      values.engine().kernels().elementwise().fill(remainder, 0);
    }
  }

  /** What the optimiser needs to take in the parameters after a step. */
  OptimizerKernels.Average at(long step) {
    return new OptimizerKernels.Average(ema.decayAt(step), values.values(), remainder);
  }

  @Override
  public void close() {
    values.close();
    if (remainder != null) {
      remainder.close();
    }
  }
}
