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
   * @param out {@code [batch, tokens, width]}, columns ordered (head, d)
   * @param keep whether the tangent or the backward kernel will be called
   */
  Saved attention(
      int heads,
      Norm qkNorm,
      Tensor qkv,
      @Nullable Tensor qGain,
      @Nullable Tensor kGain,
      Tensor out,
      boolean keep);

  /** ȯut from the tangent of q, k, v; the gains have no tangent. */
  void attentionTangent(
      int heads,
      Norm qkNorm,
      Tensor qkv,
      @Nullable Tensor qGain,
      @Nullable Tensor kGain,
      Saved saved,
      Tensor dQkv,
      Tensor dOut);

  /** The cotangents of q, k, v and of the gains from ōut. */
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
