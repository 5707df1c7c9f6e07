package org.meanflow.nn.engine;

import org.jspecify.annotations.Nullable;

/** Affine maps. Weights are {@code [out, in]}, as in PyTorch. */
public interface LinearKernels {

  /**
   * y = x Wᵀ + b, the bias only in the first rows, so that values and tangents can be stacked into
   * one product.
   *
   * @param x {@code [rows, in]}
   * @param w {@code [out, in]}
   * @param b {@code [out]}, or {@code null}
   * @param biasRows how many rows, from the first, get the bias
   * @param y {@code [rows, out]}, the result
   */
  void linear(Tensor x, Tensor w, @Nullable Tensor b, long biasRows, Tensor y);

  /**
   * x̄ = ȳ W, W̄ += ȳᵀ x, b̄ += Σ_rows ȳ.
   *
   * @param x {@code [rows, in]}
   * @param w {@code [out, in]}
   * @param gy ȳ, {@code [rows, out]}
   * @param gx x̄, {@code null} if not wanted
   * @param gw W̄, {@code null} if not wanted
   * @param gb b̄, {@code null} if not wanted
   */
  void linearBackward(
      Tensor x,
      Tensor w,
      Tensor gy,
      @Nullable Cotangent gx,
      @Nullable Cotangent gw,
      @Nullable Cotangent gb);
}
