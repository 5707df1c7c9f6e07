package org.meanflow.nn.engine;

import org.jspecify.annotations.Nullable;

/** Elementwise maps and the broadcasts of a transformer block. */
public interface ElementwiseKernels {

  /** Sets all elements of {@code x}. */
  void fill(Tensor x, double value);

  /** y = x. */
  void copy(Tensor x, Tensor y);

  /** z = αx + βy, any shape; {@code z} may be {@code x} or {@code y}. */
  void combine(double alpha, Tensor x, double beta, Tensor y, Tensor z);

  /** y = αx, or y += αx if {@code add}. */
  void scale(double alpha, Tensor x, Tensor y, boolean add);

  /** z = x ⊙ y, or z += x ⊙ y if {@code add}, any shape. */
  void multiply(Tensor x, Tensor y, Tensor z, boolean add);

  /** y = gelu(x), tanh approximation (Hendrycks and Gimpel, arXiv 1606.08415). */
  void gelu(Tensor x, Tensor y);

  /** y = gelu′(x) ⊙ d, or y += gelu′(x) ⊙ d if {@code add}. */
  void geluSlope(Tensor x, Tensor d, Tensor y, boolean add);

  /** y = x σ(x). */
  void silu(Tensor x, Tensor y);

  /** y = silu′(x) ⊙ d, or y += silu′(x) ⊙ d if {@code add}. */
  void siluSlope(Tensor x, Tensor d, Tensor y, boolean add);

  /** y = softmax over the last dimension of x. */
  void softmax(Tensor x, Tensor y);

  /**
   * z = y ⊙ (d − Σ_last y ⊙ d), or z += …: the tangent (d = ẋ) and the backward rule (d = ȳ) of
   * softmax are the same symmetric map.
   */
  void softmaxSlope(Tensor y, Tensor d, Tensor z, boolean add);

  /**
   * y = x + table, the table broadcast over the batch.
   *
   * @param x {@code [batch, ...]}
   * @param table the shape of one row of {@code x}
   */
  void addTable(Tensor x, Tensor table, Tensor y);

  /** Sum over the batch: y = Σ_b x_b, or y += …, with x {@code [batch, ...]}. */
  void sumOverBatch(Tensor x, Tensor y, boolean add);

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
