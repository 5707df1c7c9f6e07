package org.meanflow.nn.engine;

/** Embeddings of times, labels and image patches. */
public interface EmbeddingKernels {

  /**
   * Sinusoidal features: y = [cos(a f_k), sin(a f_k)], a = scale·t, f_k = 10000^(−k/n), k = 0…n−1.
   *
   * @param t {@code [batch]}
   * @param y {@code [batch, 2n]}
   */
  void timeFeatures(double scale, Tensor t, Tensor y);

  /** ẏ = [−sin(a f_k), cos(a f_k)]·scale·f_k·ṫ. */
  void timeFeaturesTangent(double scale, Tensor t, Tensor dt, Tensor dy);

  /** t̄ = Σ_k of the same slopes times ȳ. */
  void timeFeaturesBackward(double scale, Tensor t, Tensor gy, Cotangent gt);

  /**
   * y_b = table row {@code indices[b]}.
   *
   * @param table {@code [rows, width]}
   * @param y {@code [batch, width]}
   */
  void embedding(Tensor table, int[] indices, Tensor y);

  /** Adds row b of ȳ to row {@code indices[b]} of the table's cotangent. */
  void embeddingBackward(int[] indices, Tensor gy, Cotangent gTable);

  /**
   * Cuts images into patches: one token for each patch, rows of patches first.
   *
   * @param order order of the values of a patch within its token
   * @param patch side of a patch; divides height and width
   * @param images {@code [batch, channels, height, width]}
   * @param tokens {@code [batch, (height/patch)·(width/patch), channels·patch²]}
   * @param add whether to add to {@code tokens} or to overwrite them
   */
  void patchify(PatchOrder order, int patch, Tensor images, Tensor tokens, boolean add);

  /** The inverse of {@link #patchify}, which is also its transpose. */
  void unpatchify(PatchOrder order, int patch, Tensor tokens, Tensor images, boolean add);
}
