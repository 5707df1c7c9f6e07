package org.meanflow.nn.engine;

import org.jspecify.annotations.Nullable;

/** The two affine maps of a transformer's block with the GELU between them, as one operation. */
public interface FeedForwardKernels {

  /**
   * The parameters.
   *
   * @param w1 {@code [hidden, width]}
   * @param b1 {@code [hidden]}
   * @param w2 {@code [out, hidden]}
   * @param b2 {@code [out]}
   */
  record Weights(Tensor w1, Tensor b1, Tensor w2, Tensor b2) {}

  /**
   * Where the cotangents of the parameters go.
   *
   * @param w1 that of w1, {@code null} if not wanted
   * @param b1 that of b1, {@code null} if not wanted
   * @param w2 that of w2, {@code null} if not wanted
   * @param b2 that of b2, {@code null} if not wanted
   */
  record Gradients(
      @Nullable Cotangent w1,
      @Nullable Cotangent b1,
      @Nullable Cotangent w2,
      @Nullable Cotangent b2) {}

  /**
   * y = W₂ GELU(W₁ x + b₁) + b₂, with the tanh form of the GELU.
   *
   * @param x {@code [rows, width]}
   * @param w the parameters
   * @param y {@code [rows, out]}, the result
   * @param keep whether one of the other kernels will be called
   * @return what they need
   */
  Saved feedForward(Tensor x, Weights w, Tensor y, boolean keep);

  /**
   * ẏ = W₂ (GELU′(h) ⊙ W₁ ẋ) with h = W₁ x + b₁, for the first rows.
   *
   * @param w the parameters
   * @param saved what {@link #feedForward} remembered
   * @param dx {@code [m, width]}
   * @param dy {@code [m, out]}, the result
   */
  void feedForwardTangent(Weights w, Saved saved, Tensor dx, Tensor dy);

  /**
   * The cotangents of input and parameters. To be called last, and once: it uses up what was
   * remembered.
   *
   * @param x {@code [rows, width]}
   * @param w the parameters
   * @param saved what {@link #feedForward} remembered
   * @param gy ȳ, {@code [rows, out]}
   * @param gx x̄, {@code null} if not wanted
   * @param gradients those of the parameters
   */
  void feedForwardBackward(
      Tensor x, Weights w, Saved saved, Tensor gy, @Nullable Cotangent gx, Gradients gradients);
}
