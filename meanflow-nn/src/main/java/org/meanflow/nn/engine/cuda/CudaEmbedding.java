package org.meanflow.nn.engine.cuda;

import java.lang.foreign.MemorySegment;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.EmbeddingKernels;
import org.meanflow.nn.engine.PatchOrder;
import org.meanflow.nn.engine.Tensor;

/** Embeddings of times, labels and image patches. */
final class CudaEmbedding implements EmbeddingKernels {
  private final CudaEngine engine;

  CudaEmbedding(CudaEngine engine) {
    this.engine = engine;
  }

  private CudaStream launch(String kernel) {
    return engine.launch("embedding", kernel);
  }

  private static CudaTensor t(Tensor tensor) {
    return (CudaTensor) tensor;
  }

  @Override
  public void timeFeatures(double scale, Tensor t, Tensor y) {
    long n = y.dim(1) / 2;
    launch("time_features")
        .f64(scale)
        .in(t(t))
        .out(t(y))
        .in(null)
        .in(null)
        .i32((int) n)
        .i64(t.size())
        .i64(0)
        .launch(CudaStream.ceilDiv(t.size() * n, 256), 1, 1, 256, 0);
  }

  @Override
  public void timeFeaturesTangent(double scale, Tensor t, Tensor dt, Tensor dy) {
    long n = dy.dim(1) / 2;
    launch("time_features")
        .f64(scale)
        .in(t(t))
        .in(null)
        .in(t(dt))
        .out(t(dy))
        .i32((int) n)
        .i64(dt.size())
        .i64(dt.size())
        .launch(CudaStream.ceilDiv(dt.size() * n, 256), 1, 1, 256, 0);
  }

  @Override
  public void timeFeaturesBackward(double scale, Tensor t, Tensor gy, Cotangent gt) {
    launch("time_features_backward")
        .f64(scale)
        .in(t(t))
        .in(t(gy))
        .out(t(gt.target()))
        .i32(gt.add())
        .i32((int) (gy.dim(1) / 2))
        .i64(t.size())
        .launchRows(t.size());
  }

  @Override
  public void embedding(Tensor table, int[] indices, Tensor y) {
    try (CudaTensor rows = upload(indices)) {
      launch("embedding")
          .in(t(table))
          .pointer(rows)
          .out(t(y))
          .i32((int) y.dim(1))
          .i64(indices.length)
          .launchFlat(y.size());
    }
  }

  @Override
  public void embeddingBackward(int[] indices, Tensor gy, Cotangent gTable) {
    Tensor table = gTable.target();
    try (CudaTensor rows = upload(indices)) {
      launch("embedding_backward")
          .pointer(rows)
          .in(t(gy))
          .out(t(table))
          .i32(gTable.add())
          .i32((int) table.dim(1))
          .i64(indices.length)
          .launch(table.dim(0), CudaStream.ceilDiv(table.dim(1), 512), 1, 128, 0);
    }
  }

  /** Integers in the memory of a tensor of as many float32. */
  private CudaTensor upload(int[] indices) {
    CudaTensor rows = engine.floats(indices.length);
    engine.transfers().upload(MemorySegment.ofArray(indices), rows.address());
    return rows;
  }

  @Override
  public void patchify(PatchOrder order, int patch, Tensor images, Tensor tokens, boolean add) {
    long n = tokens.size();
    patches(launch("patchify").in(t(images)).out(t(tokens)).i32(add), order, patch, images, n);
  }

  @Override
  public void unpatchify(PatchOrder order, int patch, Tensor tokens, Tensor images, boolean add) {
    long n = images.size();
    patches(launch("unpatchify").in(t(tokens)).out(t(images)).i32(add), order, patch, images, n);
  }

  private static void patches(
      CudaStream started, PatchOrder order, int patch, Tensor images, long n) {
    started
        .i32(order == PatchOrder.CHANNEL_LAST)
        .i32(patch)
        .i32((int) images.dim(1))
        .i32((int) images.dim(2))
        .i32((int) images.dim(3))
        .i64(n)
        .launchFlat(n);
  }
}
