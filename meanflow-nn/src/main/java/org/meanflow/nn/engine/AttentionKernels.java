package org.meanflow.nn.engine;

import org.jspecify.annotations.Nullable;

/** Multi-head self-attention between the products that make q, k, v and the output projection. */
public interface AttentionKernels {

  /**
   * out = softmax(q kᵀ / √d) v for each sample and head, optionally with RMS-normalised q and k.
   *
   * @param heads number of heads; d = width / heads
   * @param qkNorm the normalisation of q and k over d; {@link Norm#none()} for none
   * @param qkv {@code [batch, tokens, 3·width]}, columns ordered (q|k|v, head, d)
   * @param qGain {@code [d]}, or {@code null} for 1
   * @param kGain {@code [d]}, or {@code null} for 1
   * @param out {@code [batch, tokens, width]}, columns ordered (head, d), the result
   * @param keep whether the tangent or the backward kernel will be called
   * @return what these kernels need of this evaluation; {@link Saved#NOTHING} if not {@code keep}
   */
  Saved attention(
      int heads,
      Norm qkNorm,
      Tensor qkv,
      @Nullable Tensor qGain,
      @Nullable Tensor kGain,
      Tensor out,
      boolean keep);

  /**
   * ȯut from the tangent of q, k, v; the gains have no tangent.
   *
   * @param heads number of heads
   * @param qkNorm the normalisation of q and k
   * @param qkv {@code [m, tokens, 3·width]}, the first m samples of the forward kernel's
   * @param qGain as in {@link #attention}
   * @param kGain as in {@link #attention}
   * @param saved what {@link #attention} returned, of the whole batch
   * @param dQkv tangent of {@code qkv}, {@code [m, tokens, 3·width]}
   * @param dOut {@code [m, tokens, width]}, the result
   */
  void attentionTangent(
      int heads,
      Norm qkNorm,
      Tensor qkv,
      @Nullable Tensor qGain,
      @Nullable Tensor kGain,
      Saved saved,
      Tensor dQkv,
      Tensor dOut);

  /**
   * The cotangents of q, k, v and of the gains from ōut.
   *
   * @param heads number of heads
   * @param qkNorm the normalisation of q and k
   * @param qkv as in {@link #attention}
   * @param qGain as in {@link #attention}
   * @param kGain as in {@link #attention}
   * @param saved what {@link #attention} returned
   * @param gOut ōut, {@code [batch, tokens, width]}
   * @param gQkv cotangent of {@code qkv}, {@code null} if not wanted
   * @param gqGain cotangent of {@code qGain}, {@code null} if not wanted
   * @param gkGain cotangent of {@code kGain}, {@code null} if not wanted
   */
  void attentionBackward(
      int heads,
      Norm qkNorm,
      Tensor qkv,
      @Nullable Tensor qGain,
      @Nullable Tensor kGain,
      Saved saved,
      Tensor gOut,
      @Nullable Cotangent gQkv,
      @Nullable Cotangent gqGain,
      @Nullable Cotangent gkGain);
}
