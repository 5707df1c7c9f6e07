package org.meanflow.nn.autodiff;

import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Tensor;

/**
 * A dual number x + ε·ẋ whose parts are tensors, on a {@link Tape}.
 *
 * <p>The tangent covers the first m samples of the batch and lies right behind the value in memory,
 * so that a linear map can treat both as one longer batch.
 */
public final class Dual {
  private final Tensor stacked;
  private final Tensor value;
  private final @Nullable Tensor tangent;
  private final boolean activation;
  private final boolean differentiable;
  private final @Nullable ParameterStore store;
  private final @Nullable Parameter parameter;
  private @Nullable Tensor cotangent;

  /** An activation with {@code batch} values, the rest of {@code stacked} being tangents. */
  Dual(Tensor stacked, long batch, boolean differentiable) {
    this.stacked = stacked;
    boolean withTangent = stacked.dim(0) > batch;
    this.value = withTangent ? stacked.rows(0, batch) : stacked;
    this.tangent = withTangent ? stacked.rows(batch, stacked.dim(0)) : null;
    this.activation = true;
    this.differentiable = differentiable;
    this.store = null;
    this.parameter = null;
  }

  /** A parameter, and the store that accumulates its gradient, if one is wanted. */
  Dual(Tensor value, @Nullable ParameterStore store, @Nullable Parameter parameter) {
    this.stacked = value;
    this.value = value;
    this.tangent = null;
    this.activation = false;
    this.differentiable = store != null;
    this.store = store;
    this.parameter = parameter;
  }

  /** Numbers without tangent or gradient. */
  Dual(Tensor value) {
    this(value, null, null);
  }

  /** {@return the value, {@code [batch, ...]}} */
  public Tensor value() {
    return value;
  }

  /** {@return the tangent, {@code [m, ...]}; {@code null} if it is zero} */
  public @Nullable Tensor tangent() {
    return tangent;
  }

  /**
   * {@return the cotangent, once {@link Tape#backward} has reached this, {@code null} before; of a
   * parameter its gradient in the store}
   */
  public @Nullable Tensor cotangent() {
    return store != null && parameter != null ? store.gradient(parameter) : cotangent;
  }

  /** {@return the extents of the value; not to be changed} */
  public long[] shape() {
    return value.shape();
  }

  /** Value and tangent as one tensor, {@code [batch + m, ...]}. */
  Tensor stacked() {
    return stacked;
  }

  /** Whether the first extent is the batch. */
  boolean isActivation() {
    return activation;
  }

  /** Whether a gradient flows into this. */
  boolean isDifferentiable() {
    return differentiable;
  }

  /** The first {@code rows} samples; a parameter as a whole. */
  Tensor firstSamples(long rows) {
    return activation ? value.rows(0, rows) : value;
  }

  /** Where a backward rule puts a contribution; the first one allocates. */
  Cotangent contribution(Tape tape, boolean zeroFirst) {
    if (store != null && parameter != null) {
      return store.contribution(parameter, zeroFirst);
    }
    Tensor existing = cotangent;
    if (existing != null) {
      return new Cotangent(existing, true);
    }
    Tensor fresh = tape.allocate(value.storage(), shape());
    cotangent = fresh;
    if (zeroFirst) {
      tape.engine().kernels().elementwise().fill(fresh, 0);
    }
    return new Cotangent(fresh, zeroFirst);
  }

  /** Starts the backward pass here. */
  void seed(Tensor cotangent) {
    this.cotangent = cotangent;
  }
}
