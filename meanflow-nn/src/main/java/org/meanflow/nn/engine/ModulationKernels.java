package org.meanflow.nn.engine;

import org.jspecify.annotations.Nullable;

/** Shift, scale and gate of a transformer block with adaptive norm (arXiv 2212.09748). */
public interface ModulationKernels {

  /**
   * y = norm(x) ⊙ (1 + scale) + shift (adaptive layer norm, Peebles and Xie, arXiv 2212.09748).
   *
   * @param x {@code [batch, tokens, width]}
   * @param modulation {@code [batch, k·width]}: k chunks of {@code width} columns
   * @param shift index of the chunk that is the shift
   * @param scale index of the chunk that is the scale
   * @param keep whether the tangent or the backward kernel will be called
   */
  Saved normModulate(
      Norm norm, Tensor x, Tensor modulation, int shift, int scale, Tensor y, boolean keep);

  /** ẏ from ẋ and the tangent of the modulation. */
  void normModulateTangent(
      Norm norm,
      Tensor x,
      Tensor modulation,
      int shift,
      int scale,
      Saved saved,
      @Nullable Tensor dx,
      @Nullable Tensor dModulation,
      Tensor dy);

  /**
   * x̄ and the modulation's cotangent from ȳ; {@code gModulation} gets only the two chunks'
   * columns.
   */
  void normModulateBackward(
      Norm norm,
      Tensor x,
      Tensor modulation,
      int shift,
      int scale,
      Saved saved,
      Tensor gy,
      @Nullable Cotangent gx,
      @Nullable Cotangent gModulation);

  /**
   * Gated residual: out = x + g ⊙ y with one gate for each channel and sample.
   *
   * @param x {@code [batch, tokens, width]}
   * @param y {@code [batch, tokens, width]}
   * @param modulation {@code [batch, k·width]}; g is its chunk {@code gate} of {@code width}
   *     columns
   * @param gate index of the chunk, 0 ≤ gate &lt; k
   */
  void gatedResidual(Tensor x, Tensor y, Tensor modulation, int gate, Tensor out);

  /** ȯut = ẋ + g ⊙ ẏ + ġ ⊙ y. */
  void gatedResidualTangent(
      Tensor y,
      Tensor modulation,
      int gate,
      @Nullable Tensor dx,
      @Nullable Tensor dy,
      @Nullable Tensor dModulation,
      Tensor dOut);

  /**
   * ȳ = g ⊙ ōut, ḡ = Σ_tokens y ⊙ ōut, x̄ = ōut; {@code gModulation} gets only the chunk's columns.
   */
  void gatedResidualBackward(
      Tensor y,
      Tensor modulation,
      int gate,
      Tensor gOut,
      @Nullable Cotangent gx,
      @Nullable Cotangent gy,
      @Nullable Cotangent gModulation);
}
