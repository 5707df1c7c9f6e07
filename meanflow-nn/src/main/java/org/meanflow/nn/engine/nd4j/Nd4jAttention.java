package org.meanflow.nn.engine.nd4j;

import static org.meanflow.nn.engine.nd4j.Nd4jOps.array;

import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.AttentionKernels;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.api.ops.impl.transforms.custom.SoftMax;
import org.nd4j.linalg.factory.Nd4j;

/** Attention with all probabilities in memory. */
final class Nd4jAttention implements AttentionKernels {
  private final Nd4jEngine engine;
  private final Nd4jOps ops;
  private final Nd4jNorm norms;
  private final Nd4jElementwise elementwise;

  Nd4jAttention(Nd4jEngine engine, Nd4jOps ops, Nd4jNorm norms, Nd4jElementwise elementwise) {
    this.engine = engine;
    this.ops = ops;
    this.norms = norms;
    this.elementwise = elementwise;
  }

  /** Everything in head layout, {@code [batch·heads, tokens, ·]}; q and k are normalised. */
  private record Attention(
      Tensor heads, Tensor q, Tensor k, Saved qSaved, Saved kSaved, Tensor probabilities)
      implements Saved {
    @Override
    public void close() {
      heads.close();
      q.close();
      k.close();
      qSaved.close();
      kSaved.close();
      probabilities.close();
    }
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
    Tensor split = splitHeads(qkv, 3, heads);
    Tensor q = engine.allocate(part(split, 0).shape());
    Tensor k = engine.allocate(part(split, 1).shape());
    Saved qSaved = norms.norm(qkNorm, part(split, 0), qGain, q, true);
    Saved kSaved = norms.norm(qkNorm, part(split, 1), kGain, k, true);
    long tokens = qkv.dim(1);
    Tensor probabilities = engine.allocate(q.dim(0), tokens, tokens);
    INDArray p = array(probabilities);
    Nd4j.matmul(array(q), array(k), p, false, true, false);
    p.muli(1 / Math.sqrt((double) q.dim(2)));
    Nd4j.exec(new SoftMax(p, p, -1));
    try (Tensor o = engine.allocate(1, q.dim(0), tokens, q.dim(2))) {
      Nd4j.matmul(p, array(part(split, 2)), array(part(o, 0)), false, false, false);
      mergeHeads(o, heads, array(out));
    }
    return Nd4jNorm.keptIf(keep, new Attention(split, q, k, qSaved, kSaved, probabilities));
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
    Attention a = (Attention) saved;
    long rows = dQkv.dim(0) * heads;
    Tensor q = a.q.rows(0, rows);
    Tensor k = a.k.rows(0, rows);
    Tensor v = part(a.heads, 2).rows(0, rows);
    Tensor p = a.probabilities.rows(0, rows);
    try (Tensor split = splitHeads(dQkv, 3, heads);
        Tensor dq = engine.allocate(q.shape());
        Tensor dk = engine.allocate(k.shape());
        Tensor scores = engine.allocate(p.shape());
        Tensor more = engine.allocate(p.shape());
        Tensor o = engine.allocate(1, rows, q.dim(1), q.dim(2));
        Tensor o2 = engine.allocate(o.shape())) {
      norms.normTangent(qkNorm, part(a.heads, 0), qGain, a.qSaved, part(split, 0), dq);
      norms.normTangent(qkNorm, part(a.heads, 1), kGain, a.kSaved, part(split, 1), dk);
      Nd4j.matmul(array(dq), array(k), array(scores), false, true, false);
      Nd4j.matmul(array(q), array(dk), array(more), false, true, false);
      array(scores).addi(array(more)).muli(1 / Math.sqrt((double) q.dim(2)));
      elementwise.softmaxSlope(p, scores, more, false);
      Nd4j.matmul(array(more), array(v), array(part(o, 0)), false, false, false);
      Nd4j.matmul(array(p), array(part(split, 2)), array(part(o2, 0)), false, false, false);
      array(o).addi(array(o2));
      mergeHeads(o, heads, array(dOut));
    }
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
    Attention a = (Attention) saved;
    INDArray p = array(a.probabilities);
    try (Tensor g = splitHeads(gOut, 1, heads);
        Tensor split = engine.allocate(a.heads.shape());
        Tensor gp = engine.allocate(a.probabilities.shape());
        Tensor gScores = engine.allocate(a.probabilities.shape());
        Tensor gq = engine.allocate(a.q.shape());
        Tensor gk = engine.allocate(a.k.shape())) {
      INDArray go = array(part(g, 0));
      Nd4j.matmul(p, go, array(part(split, 2)), true, false, false);
      Nd4j.matmul(go, array(part(a.heads, 2)), array(gp), false, true, false);
      elementwise.softmaxSlope(a.probabilities, gp, gScores, false);
      array(gScores).muli(1 / Math.sqrt((double) a.q.dim(2)));
      Nd4j.matmul(array(gScores), array(a.k), array(gq), false, false, false);
      Nd4j.matmul(array(gScores), array(a.q), array(gk), true, false, false);
      Cotangent gq0 = new Cotangent(part(split, 0), false);
      Cotangent gk0 = new Cotangent(part(split, 1), false);
      norms.normBackward(qkNorm, part(a.heads, 0), qGain, a.qSaved, gq, gq0, gqGain);
      norms.normBackward(qkNorm, part(a.heads, 1), kGain, a.kSaved, gk, gk0, gkGain);
      if (gQkv != null) {
        ops.into(gQkv.target(), gQkv.add(), result -> mergeHeads(split, heads, result));
      }
    }
  }

  private static Tensor part(Tensor split, long index) {
    long[] shape = split.shape();
    long size = split.size() / shape[0];
    return split.view(index * size, shape[1], shape[2], shape[3]);
  }

  /** {@code [batch, tokens, parts·width]} to {@code [parts, batch·heads, tokens, width/heads]}. */
  private Tensor splitHeads(Tensor x, long parts, long heads) {
    long batch = x.dim(0);
    long tokens = x.dim(1);
    long d = x.dim(2) / (parts * heads);
    Tensor split = engine.allocate(parts, batch * heads, tokens, d);
    array(split.reshape(parts, batch, heads, tokens, d))
        .assign(array(x.reshape(batch, tokens, parts, heads, d)).permute(2, 0, 3, 1, 4));
    return split;
  }

  /** The inverse of {@link #splitHeads}. */
  private static void mergeHeads(Tensor split, long heads, INDArray result) {
    long parts = split.dim(0);
    long batch = split.dim(1) / heads;
    long tokens = split.dim(2);
    long d = split.dim(3);
    result
        .reshape('c', batch, tokens, parts, heads, d)
        .assign(array(split.reshape(parts, batch, heads, tokens, d)).permute(1, 3, 0, 2, 4));
  }
}
