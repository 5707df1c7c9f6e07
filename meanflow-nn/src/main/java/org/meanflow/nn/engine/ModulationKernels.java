package org.meanflow.nn.engine;

import org.jspecify.annotations.Nullable;

/** Shift, scale and gate of a transformer block with adaptive norm (arXiv 2212.09748). */
public interface ModulationKernels {

  /**
   * y = norm(x) ⊙ (1 + scale) + shift (adaptive layer norm, Peebles and Xie, arXiv 2212.09748).
   *
   * @param norm normalisation of the last dimension of {@code x}
   * @param x {@code [batch, tokens, width]}
   * @param modulation {@code [batch, k·width]}: k chunks of {@code width} columns
   * @param shift index of the chunk that is the shift
   * @param scale index of the chunk that is the scale
   * @param y {@code [batch, tokens, width]}, the result
   * @param keep whether the tangent or the backward kernel will be called
   * @return what these kernels need of this evaluation; {@link Saved#NOTHING} if not {@code keep}
   */
  Saved normModulate(
      Norm norm, Tensor x, Tensor modulation, int shift, int scale, Tensor y, boolean keep);

  /**
   * ẏ from ẋ and the tangent of the modulation, of which at least one is given.
   *
   * @param norm normalisation of the last dimension of {@code x}
   * @param x {@code [m, tokens, width]}, the first m samples of the forward kernel's
   * @param modulation {@code [m, k·width]}
   * @param shift index of the chunk that is the shift
   * @param scale index of the chunk that is the scale
   * @param saved what {@link #normModulate} returned, of the whole batch
   * @param dx ẋ, {@code [m, tokens, width]}, or {@code null} for 0
   * @param dModulation tangent of {@code modulation}, {@code [m, k·width]}, or {@code null} for 0
   * @param dy {@code [m, tokens, width]}, the result
   */
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
   * x̄ and the modulation's cotangent from ȳ.
   *
   * @param norm normalisation of the last dimension of {@code x}
   * @param x as in {@link #normModulate}
   * @param modulation as in {@link #normModulate}
   * @param shift index of the chunk that is the shift
   * @param scale index of the chunk that is the scale
   * @param saved what {@link #normModulate} returned
   * @param gy ȳ, {@code [batch, tokens, width]}
   * @param gx cotangent of {@code x}, {@code null} if not wanted
   * @param gModulation cotangent of {@code modulation}, of which only the two chunks' columns are
   *     written; {@code null} if not wanted
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
   * @param out {@code [batch, tokens, width]}, the result
   */
  void gatedResidual(Tensor x, Tensor y, Tensor modulation, int gate, Tensor out);

  /**
   * ȯut = ẋ + g ⊙ ẏ + ġ ⊙ y, at least one of the tangents given.
   *
   * @param y {@code [m, tokens, width]}
   * @param modulation {@code [m, k·width]}
   * @param gate index of the chunk
   * @param dx ẋ, {@code [m, tokens, width]}, or {@code null} for 0
   * @param dy ẏ, {@code [m, tokens, width]}, or {@code null} for 0
   * @param dModulation tangent of {@code modulation}, {@code [m, k·width]}, or {@code null} for 0
   * @param dOut {@code [m, tokens, width]}, the result
   */
  void gatedResidualTangent(
      Tensor y,
      Tensor modulation,
      int gate,
      @Nullable Tensor dx,
      @Nullable Tensor dy,
      @Nullable Tensor dModulation,
      Tensor dOut);

  /**
   * ȳ = g ⊙ ōut, ḡ = Σ_tokens y ⊙ ōut, x̄ = ōut.
   *
   * @param y as in {@link #gatedResidual}
   * @param modulation as in {@link #gatedResidual}
   * @param gate index of the chunk
   * @param gOut ōut, {@code [batch, tokens, width]}
   * @param gx cotangent of {@code x}, {@code null} if not wanted
   * @param gy cotangent of {@code y}, {@code null} if not wanted
   * @param gModulation cotangent of {@code modulation}, of which only the chunk's columns are
   *     written; {@code null} if not wanted
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
