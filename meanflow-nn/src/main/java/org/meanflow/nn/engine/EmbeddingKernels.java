package org.meanflow.nn.engine;

/** Embeddings of times, labels and image patches. */
public interface EmbeddingKernels {

  /**
   * Sinusoidal features: y = [cos(a f_k), sin(a f_k)], a = scale·t, f_k = 10000^(−k/n), k = 0…n−1.
   *
   * @param scale factor on the times
   * @param t {@code [batch]}
   * @param y {@code [batch, 2n]}, the result
   */
  void timeFeatures(double scale, Tensor t, Tensor y);

  /**
   * ẏ = [−sin(a f_k), cos(a f_k)]·scale·f_k·ṫ.
   *
   * @param scale factor on the times
   * @param t {@code [m]}
   * @param dt ṫ, {@code [m]}
   * @param dy {@code [m, 2n]}, the result
   */
  void timeFeaturesTangent(double scale, Tensor t, Tensor dt, Tensor dy);

  /**
   * t̄ = Σ of the slopes of {@link #timeFeaturesTangent} times ȳ.
   *
   * @param scale factor on the times
   * @param t {@code [batch]}
   * @param gy ȳ, {@code [batch, 2n]}
   * @param gt cotangent of {@code t}
   */
  void timeFeaturesBackward(double scale, Tensor t, Tensor gy, Cotangent gt);

  /**
   * y_b = row {@code indices[b]} of the table.
   *
   * @param table {@code [rows, width]}
   * @param indices one for each sample, in [0, rows)
   * @param y {@code [batch, width]}, the result
   */
  void embedding(Tensor table, int[] indices, Tensor y);

  /**
   * Adds row b of ȳ to row {@code indices[b]} of the table's cotangent.
   *
   * @param indices as in {@link #embedding}
   * @param gy ȳ, {@code [batch, width]}
   * @param gTable cotangent of the table, {@code [rows, width]}
   */
  void embeddingBackward(int[] indices, Tensor gy, Cotangent gTable);

  /**
   * Cuts images into patches: one token for each patch, rows of patches first.
   *
   * @param order order of the values of a patch within its token
   * @param patch side of a patch, pixels; divides height and width
   * @param images {@code [batch, channels, height, width]}
   * @param tokens {@code [batch, (height/patch)·(width/patch), channels·patch²]}, the result
   * @param add whether to add to {@code tokens} or to overwrite them
   */
  void patchify(PatchOrder order, int patch, Tensor images, Tensor tokens, boolean add);

  /**
   * The inverse of {@link #patchify}, which is also its transpose.
   *
   * @param order order of the values of a patch within its token
   * @param patch side of a patch, pixels; divides height and width
   * @param tokens {@code [batch, (height/patch)·(width/patch), channels·patch²]}
   * @param images {@code [batch, channels, height, width]}, the result
   * @param add whether to add to {@code images} or to overwrite them
   */
  void unpatchify(PatchOrder order, int patch, Tensor tokens, Tensor images, boolean add);
}
