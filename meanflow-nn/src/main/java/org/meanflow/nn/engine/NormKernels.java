package org.meanflow.nn.engine;

import org.jspecify.annotations.Nullable;

/** Normalisations of the last dimension. */
public interface NormKernels {

  /**
   * y = norm(x) ⊙ gain.
   *
   * @param norm which normalisation
   * @param x {@code [..., width]}
   * @param gain {@code [width]}, or {@code null} for 1
   * @param y {@code [..., width]}, the result
   * @param keep whether the tangent or the backward kernel will be called
   * @return what these kernels need of this evaluation; {@link Saved#NOTHING} if not {@code keep}
   */
  Saved norm(Norm norm, Tensor x, @Nullable Tensor gain, Tensor y, boolean keep);

  /**
   * ẏ from ẋ; the gain has no tangent.
   *
   * @param norm which normalisation
   * @param x the first rows of the forward kernel's, {@code [..., width]}
   * @param gain as in {@link #norm}
   * @param saved what {@link #norm} returned, of all rows
   * @param dx ẋ, the shape of {@code x}
   * @param dy the result, the shape of {@code x}
   */
  void normTangent(Norm norm, Tensor x, @Nullable Tensor gain, Saved saved, Tensor dx, Tensor dy);

  /**
   * x̄ and the gain's cotangent from ȳ.
   *
   * @param norm which normalisation
   * @param x as in {@link #norm}
   * @param gain as in {@link #norm}
   * @param saved what {@link #norm} returned
   * @param gy ȳ, the shape of {@code x}
   * @param gx cotangent of {@code x}, {@code null} if not wanted
   * @param gGain cotangent of {@code gain}, {@code null} if not wanted
   */
  void normBackward(
      Norm norm,
      Tensor x,
      @Nullable Tensor gain,
      Saved saved,
      Tensor gy,
      @Nullable Cotangent gx,
      @Nullable Cotangent gGain);
}
