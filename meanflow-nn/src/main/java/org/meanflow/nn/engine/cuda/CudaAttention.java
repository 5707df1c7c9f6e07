package org.meanflow.nn.engine.cuda;

import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.AttentionKernels;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.engine.cuda.CudaNorm.Rows;

/**
 * Attention tile by tile: no matrix of tokens by tokens is ever in device memory. Remembered are
 * the logarithm of each row's sum, and q and k if they were normalised.
 */
final class CudaAttention implements AttentionKernels {
  private static final int LARGEST_HEAD = 128;

  private final CudaEngine engine;
  private final CudaNorm norms;
  private final Map<Integer, HeadKernels> kernels = new HashMap<>();

  CudaAttention(CudaEngine engine, CudaNorm norms) {
    this.engine = engine;
    this.norms = norms;
  }

  /** The kernels compiled for a width of heads, and how they want to be launched. */
  private record HeadKernels(
      Kernel forward,
      Kernel tangent,
      Kernel backwardQ,
      Kernel backwardKv,
      int threads,
      int rows,
      int tileOfKeys,
      int tileOfQueries,
      int forwardShared,
      int tangentShared,
      int backwardQShared,
      int backwardKvShared,
      int moreKeysShared,
      int moreQueriesShared) {

    /** Shared memory where the tiles of a loop over keys have two buffers, if there are several. */
    int overKeys(int shared, long tokens) {
      return shared + (tokens > tileOfKeys ? moreKeysShared : 0);
    }

    int overQueries(int shared, long tokens) {
      return shared + (tokens > tileOfQueries ? moreQueriesShared : 0);
    }
  }

  /** Where q, k or v lie: the first element, and the elements between two tokens. */
  private record Part(CudaTensor tensor, long stride) {}

  /** q, k and v of a sample-major tensor, or the same parts of a tangent or cotangent. */
  private record Parts(Part q, Part k, Part v) {}

  /**
   * What the other kernels need of a forward evaluation.
   *
   * @param normalised q and k, {@code [batch, tokens, 2·width]}, or null if they are in qkv
   */
  private record Kept(
      @Nullable CudaTensor normalised, Saved qRows, Saved kRows, CudaTensor lse, CudaTensor out)
      implements Saved {
    @Override
    public void close() {
      if (normalised != null) {
        normalised.close();
      }
      qRows.close();
      kRows.close();
      lse.close();
    }
  }

  private HeadKernels kernels(long d) {
    if (d > LARGEST_HEAD) {
      throw new IllegalArgumentException(
          "the cuda engine has attention heads of up to %d columns, got %d"
              .formatted(LARGEST_HEAD, d));
    }
    return kernels.computeIfAbsent((int) CudaStream.ceilDiv(d, 16) * 16, this::load);
  }

  private HeadKernels load(int headDim) {
    KernelSet set = engine.kernelSet();
    int arithmetic =
        switch (engine.precision()) {
          case TF32 -> 1;
          case BF16 -> 2;
          default -> 0;
        };
    long module =
        set.module("attention", List.of("-DHEAD_DIM=" + headDim, "-DATTENTION=" + arithmetic));
    int[] launch = set.global(module, "attention_launch", 10);
    return new HeadKernels(
        set.function(module, "attention_forward", launch[4] + launch[8]),
        set.function(module, "attention_tangent", launch[5]),
        set.function(module, "attention_backward_q", launch[6] + launch[8]),
        set.function(module, "attention_backward_kv", launch[7] + launch[9]),
        launch[0],
        launch[1],
        launch[2],
        launch[3],
        launch[4],
        launch[5],
        launch[6],
        launch[7],
        launch[8],
        launch[9]);
  }

  private static CudaTensor from(CudaTensor tensor, long element) {
    return tensor.view(element, tensor.size() - element);
  }

  /** q, k and v side by side in rows of 3·width. */
  private static Parts sideBySide(CudaTensor qkv, long width) {
    return new Parts(
        new Part(qkv, 3 * width),
        new Part(from(qkv, width), 3 * width),
        new Part(from(qkv, 2 * width), 3 * width));
  }

  /** q and k of one tensor with rows of 2·width, v of another as before. */
  private static Parts normalised(CudaTensor qk, Parts qkv, long width) {
    return new Parts(new Part(qk, 2 * width), new Part(from(qk, width), 2 * width), qkv.v);
  }

  private static CudaStream in(CudaStream launch, Parts parts) {
    return launch
        .in(parts.q.tensor)
        .in(parts.k.tensor)
        .in(parts.v.tensor)
        .i64(parts.q.stride)
        .i64(parts.k.stride)
        .i64(parts.v.stride);
  }

  private static CudaStream sizes(CudaStream launch, int heads, Tensor qkv, long d) {
    return launch.i32((int) qkv.dim(1)).i32(heads).i32((int) d).f32(1 / Math.sqrt((double) d));
  }

  @Override
  public Saved attention(
      int heads,
      Norm qkNorm,
      Tensor qkv,
      @Nullable Tensor qGain,
      @Nullable Tensor kGain,
      Tensor out,
      boolean keep) {
    long tokens = qkv.dim(1);
    long width = qkv.dim(2) / 3;
    long d = width / heads;
    HeadKernels k = kernels(d);
    Parts parts = sideBySide((CudaTensor) qkv, width);
    CudaTensor qk = null;
    Saved qRows = Saved.NOTHING;
    Saved kRows = Saved.NOTHING;
    if (normalises(qkNorm, qGain)) {
      qk = engine.allocate(Storage.COMPACT, qkv.dim(0), tokens, 2 * width);
      Parts raw = parts;
      parts = normalised(qk, raw, width);
      qRows = normalise(heads, qkNorm, qkv, qGain, raw.q, parts.q, keep);
      kRows = normalise(heads, qkNorm, qkv, kGain, raw.k, parts.k, keep);
    }
    CudaTensor lse = keep ? engine.floats(qkv.dim(0), heads, tokens) : null;
    CudaStream launch = in(engine.stream().kernel(k.forward), parts);
    sizes(launch.out((CudaTensor) out).pointer(lse), heads, qkv, d)
        .launch(
            CudaStream.ceilDiv(tokens, k.rows),
            heads,
            qkv.dim(0),
            k.threads,
            k.overKeys(k.forwardShared, tokens));
    if (lse != null) {
      return new Kept(qk, qRows, kRows, lse, (CudaTensor) out);
    }
    if (qk != null) {
      qk.close();
    }
    return Saved.NOTHING;
  }

  private static boolean normalises(Norm norm, @Nullable Tensor gain) {
    return norm.kind() != Norm.Kind.NONE || gain != null;
  }

  private Saved normalise(
      int heads,
      Norm norm,
      Tensor qkv,
      @Nullable Tensor gain,
      Part raw,
      Part result,
      boolean keep) {
    Rows rows = Rows.heads(norm, qkv, heads, qkv.dim(2) / 3 / heads, gain);
    return norms.forward(
        rows, raw.tensor, raw.stride, (CudaTensor) gain, null, result.tensor, result.stride, keep);
  }

  @Override
  public void attentionTangent(
      int heads,
      Norm qkNorm,
      Tensor qkv,
      @Nullable Tensor qGain,
      @Nullable Tensor kGain,
      Saved saved,
      Tensor dQkv,
      Tensor dOut) {
    Kept kept = (Kept) saved;
    long tokens = qkv.dim(1);
    long width = qkv.dim(2) / 3;
    long d = width / heads;
    Parts values = sideBySide((CudaTensor) qkv, width);
    Parts tangents = sideBySide((CudaTensor) dQkv, width);
    CudaTensor qk = kept.normalised;
    try (CudaTensor dQk =
        qk == null ? null : engine.allocate(Storage.COMPACT, dQkv.dim(0), tokens, 2 * width)) {
      if (qk != null && dQk != null) {
        Parts raw = values;
        Parts dRaw = tangents;
        values = normalised(qk, raw, width);
        tangents = normalised(dQk, dRaw, width);
        normaliseTangent(heads, qkNorm, dQkv, qGain, raw.q, dRaw.q, tangents.q);
        normaliseTangent(heads, qkNorm, dQkv, kGain, raw.k, dRaw.k, tangents.k);
      }
      HeadKernels k = kernels(d);
      CudaStream launch = in(in(engine.stream().kernel(k.tangent), values), tangents);
      sizes(launch.in(kept.out).pointer(kept.lse).out((CudaTensor) dOut), heads, qkv, d)
          .launch(
              CudaStream.ceilDiv(tokens, k.rows), heads, dQkv.dim(0), k.threads, k.tangentShared);
    }
  }

  private void normaliseTangent(
      int heads, Norm norm, Tensor dQkv, @Nullable Tensor gain, Part raw, Part dRaw, Part result) {
    Rows rows = Rows.heads(norm, dQkv, heads, dQkv.dim(2) / 3 / heads, gain);
    norms.tangent(
        rows,
        raw.tensor,
        raw.stride,
        (CudaTensor) gain,
        dRaw.tensor,
        null,
        null,
        result.tensor,
        result.stride);
  }

  @Override
  public void attentionBackward(
      int heads,
      Norm qkNorm,
      Tensor qkv,
      @Nullable Tensor qGain,
      @Nullable Tensor kGain,
      Saved saved,
      Tensor gOut,
      @Nullable Cotangent gQkv,
      @Nullable Cotangent gqGain,
      @Nullable Cotangent gkGain) {
    if (gQkv == null && gqGain == null && gkGain == null) {
      return;
    }
    Kept kept = (Kept) saved;
    long batch = qkv.dim(0);
    long tokens = qkv.dim(1);
    long width = qkv.dim(2) / 3;
    long d = width / heads;
    HeadKernels k = kernels(d);
    CudaTensor qk = kept.normalised;
    try (CudaTensor delta = engine.floats(batch, heads, tokens);
        CudaTensor unwanted = gQkv == null ? engine.floats(qkv.shape()) : null;
        CudaTensor gQk =
            qk == null ? null : engine.allocate(Storage.COMPACT, batch, tokens, 2 * width)) {
      CudaTensor result = gQkv == null ? unwanted : (CudaTensor) gQkv.target();
      boolean add = gQkv != null && gQkv.add();
      if (result == null) {
        throw new IllegalStateException("no place for a cotangent");
      }
      Parts raw = sideBySide((CudaTensor) qkv, width);
      Parts values = qk == null ? raw : normalised(qk, raw, width);
      Parts gRaw = sideBySide(result, width);
      Parts g = gQk == null ? gRaw : normalised(gQk, gRaw, width);
      boolean addQk = gQk == null && add;
      CudaStream launch = in(engine.stream().kernel(k.backwardQ), values);
      sizes(
              launch
                  .in(kept.out)
                  .in((CudaTensor) gOut)
                  .pointer(kept.lse)
                  .pointer(delta)
                  .out(g.q.tensor)
                  .i64(g.q.stride)
                  .i32(addQk),
              heads,
              qkv,
              d)
          .launch(
              CudaStream.ceilDiv(tokens, k.rows),
              heads,
              batch,
              k.threads,
              k.overKeys(k.backwardQShared, tokens));
      launch = in(engine.stream().kernel(k.backwardKv), values);
      sizes(
              launch
                  .in((CudaTensor) gOut)
                  .pointer(kept.lse)
                  .pointer(delta)
                  .out(g.k.tensor)
                  .i64(g.k.stride)
                  .i32(addQk)
                  .out(g.v.tensor)
                  .i64(g.v.stride)
                  .i32(add),
              heads,
              qkv,
              d)
          .launch(
              CudaStream.ceilDiv(tokens, k.rows),
              heads,
              batch,
              k.threads,
              k.overQueries(k.backwardKvShared, tokens));
      if (gQk != null) {
        boolean wanted = gQkv != null;
        normaliseBackward(
            heads, qkNorm, qkv, qGain, kept.qRows, raw.q, g.q, wanted, gRaw.q, add, gqGain);
        normaliseBackward(
            heads, qkNorm, qkv, kGain, kept.kRows, raw.k, g.k, wanted, gRaw.k, add, gkGain);
      }
    }
  }

  private void normaliseBackward(
      int heads,
      Norm norm,
      Tensor qkv,
      @Nullable Tensor gain,
      Saved saved,
      Part raw,
      Part g,
      boolean wanted,
      Part result,
      boolean add,
      @Nullable Cotangent gGain) {
    Rows rows = Rows.heads(norm, qkv, heads, qkv.dim(2) / 3 / heads, gain);
    norms.backward(
        rows,
        raw.tensor,
        raw.stride,
        (CudaTensor) gain,
        saved,
        g.tensor,
        g.stride,
        wanted ? new Cotangent(result.tensor, add) : null,
        result.stride,
        gGain,
        null,
        0);
  }
}
