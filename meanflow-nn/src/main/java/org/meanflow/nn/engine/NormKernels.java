package org.meanflow.nn.engine;

import org.jspecify.annotations.Nullable;

/** Normalisations of the last dimension, with a gain or with the modulation of adaptive norm. */
public interface NormKernels {

  /**
   * y = norm(x) ⊙ gain.
   *
   * @param x {@code [..., width]}
   * @param gain {@code [width]}, or {@code null} for 1
   * @param keep whether the tangent or the backward kernel will be called
   */
  Saved norm(Norm norm, Tensor x, @Nullable Tensor gain, Tensor y, boolean keep);

  /** ẏ from ẋ; the gain has no tangent. */
  void normTangent(Norm norm, Tensor x, @Nullable Tensor gain, Saved saved, Tensor dx, Tensor dy);

  /** x̄ and the gain's cotangent from ȳ. */
  void normBackward(
      Norm norm,
      Tensor x,
      @Nullable Tensor gain,
      Saved saved,
      Tensor gy,
      @Nullable Cotangent gx,
      @Nullable Cotangent gGain);

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
}
