package org.meanflow.nn.engine;

import org.jspecify.annotations.Nullable;

/** Normalisations of the last dimension. */
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
}
