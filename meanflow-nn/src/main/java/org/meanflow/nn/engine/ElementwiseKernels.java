package org.meanflow.nn.engine;

/**
 * Elementwise maps, softmax, and sums over the batch. Where nothing else is said, all tensors of a
 * kernel have one shape, whatever it is.
 */
public interface ElementwiseKernels {

  /**
   * x = value, all elements.
   *
   * @param x the result
   * @param value what every element becomes
   */
  void fill(Tensor x, double value);

  /**
   * y = x.
   *
   * @param x the source
   * @param y the result
   */
  void copy(Tensor x, Tensor y);

  /**
   * z = αx + βy.
   *
   * @param alpha α
   * @param x first term
   * @param beta β
   * @param y second term
   * @param z the result; may be {@code x} or {@code y}
   */
  void combine(double alpha, Tensor x, double beta, Tensor y, Tensor z);

  /**
   * y = αx, or y += αx.
   *
   * @param alpha α
   * @param x the argument
   * @param y the result
   * @param add whether to add to {@code y} or to overwrite it
   */
  void scale(double alpha, Tensor x, Tensor y, boolean add);

  /**
   * z = x ⊙ y, or z += x ⊙ y.
   *
   * @param x first factor
   * @param y second factor
   * @param z the result
   * @param add whether to add to {@code z} or to overwrite it
   */
  void multiply(Tensor x, Tensor y, Tensor z, boolean add);

  /**
   * y = gelu(x), tanh approximation (Hendrycks and Gimpel, arXiv 1606.08415).
   *
   * @param x the argument
   * @param y the result
   * @param keep whether {@link #geluSlope} will be called
   * @return what the slope needs; the caller closes it
   */
  Saved gelu(Tensor x, Tensor y, boolean keep);

  /**
   * y = gelu′(x) ⊙ d, or y += gelu′(x) ⊙ d.
   *
   * @param x where the slope is taken
   * @param saved what {@link #gelu} remembered, for at least the samples of {@code d}
   * @param d ẋ for the tangent, ȳ for the cotangent
   * @param y the result
   * @param add whether to add to {@code y} or to overwrite it
   */
  void geluSlope(Tensor x, Saved saved, Tensor d, Tensor y, boolean add);

  /**
   * y = x σ(x).
   *
   * @param x the argument
   * @param y the result
   * @param keep whether {@link #siluSlope} will be called
   * @return what the slope needs; the caller closes it
   */
  Saved silu(Tensor x, Tensor y, boolean keep);

  /**
   * y = silu′(x) ⊙ d, or y += silu′(x) ⊙ d.
   *
   * @param x where the slope is taken
   * @param saved what {@link #silu} remembered, for at least the samples of {@code d}
   * @param d ẋ for the tangent, ȳ for the cotangent
   * @param y the result
   * @param add whether to add to {@code y} or to overwrite it
   */
  void siluSlope(Tensor x, Saved saved, Tensor d, Tensor y, boolean add);

  /**
   * y = softmax over the last dimension of x.
   *
   * @param x {@code [..., n]}
   * @param y {@code [..., n]}, the result
   */
  void softmax(Tensor x, Tensor y);

  /**
   * z = y ⊙ (d − Σ_last y ⊙ d), or z += …: the tangent (d = ẋ) and the backward rule (d = ȳ) of
   * softmax are the same symmetric map.
   *
   * @param y result of {@link #softmax}, {@code [..., n]}
   * @param d ẋ or ȳ, {@code [..., n]}
   * @param z {@code [..., n]}, the result
   * @param add whether to add to {@code z} or to overwrite it
   */
  void softmaxSlope(Tensor y, Tensor d, Tensor z, boolean add);

  /**
   * y = x + table, the table broadcast over the batch.
   *
   * @param x {@code [batch, ...]}
   * @param table as many elements as one sample of {@code x}
   * @param y the result, the shape of {@code x}
   */
  void addTable(Tensor x, Tensor table, Tensor y);

  /**
   * y = Σ_b x_b, or y += Σ_b x_b.
   *
   * @param x {@code [batch, ...]}
   * @param y the result, as many elements as one sample of {@code x}
   * @param add whether to add to {@code y} or to overwrite it
   */
  void sumOverBatch(Tensor x, Tensor y, boolean add);
}
