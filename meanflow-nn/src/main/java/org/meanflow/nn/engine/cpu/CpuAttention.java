package org.meanflow.nn.engine.cpu;

import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.AttentionKernels;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.engine.cpu.Product.Layout;
import org.meanflow.nn.engine.cpu.Product.Spec;

/**
 * Attention, a few heads of one sample at a time, their queries in tiles: scores, probabilities and
 * their tangents and cotangents live in scratch memory the size of a second-level cache.
 *
 * <p>The heads of q and k are first normalised, from rows of all heads into matrices of their own
 * in the type of factors; v is multiplied where it is, unless it takes part in one product with
 * others. Matrices that take part in the same kind of product lie side by side, so that it is one
 * product: a call costs a microsecond, half of what a small head's arithmetic does.
 *
 * <p>The forward kernel keeps two numbers for each query; the others compute probabilities from
 * them again, which costs less than writing and reading probabilities.
 */
final class CpuAttention implements AttentionKernels {
  /** A row on its way; see {@link AttentionShape}. */
  static final int ROW = 1;

  private static final int Q_ROWS = 2;
  private static final int K_ROWS = 3;
  private static final int V_ROWS = 4;
  private static final int D_ROWS = 5;
  private static final int OUT = 6;
  private static final int Q_GAIN = 8;
  private static final int K_GAIN = 10;
  private static final int Q = 12;
  private static final int K = 13;
  private static final int V = 14;
  private static final int SCORES = 15;
  private static final int FACTORS = 16;
  private static final int TAIL = 17;
  private static final int KEPT = 18;
  private static final int MEANS = 19;
  private static final int G_Q = 20;
  private static final int G_K_V = 21;

  private final CpuEngine engine;
  private final Workers workers;
  private final Products products;
  private final Reductions reductions;

  CpuAttention(CpuEngine engine, Workers workers, Products products, Reductions reductions) {
    this.engine = engine;
    this.workers = workers;
    this.products = products;
    this.reductions = reductions;
  }

  /**
   * P = 2^(c·S + shift)·inverse for every query.
   *
   * @param shifts {@code [batch, heads, tokens]}
   * @param inverses {@code [batch, heads, tokens]}
   */
  private record Softmax(CpuTensor shifts, CpuTensor inverses) implements Saved {
    @Override
    public void close() {
      shifts.close();
      inverses.close();
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
    AttentionShape s = new AttentionShape(products, heads, qkNorm, out);
    CpuTensor x = CpuTensor.of(qkv);
    CpuTensor to = CpuTensor.of(out);
    int n = s.length;
    long headSize = s.headSize();
    long scoreSize = (long) s.tile * n;
    Layout rows = s.rows(s.stride, headSize);
    Layout columns = s.columns(s.stride, headSize);
    Layout values = s.layoutOfFactors(x, 3);
    Layout sums = AttentionShape.sums(n, scoreSize);
    Layout p = s.rows(n, scoreSize);
    Layout result = AttentionShape.sums(s.stride, headSize);
    Product[] scores =
        s.perTile(m -> new Spec(s.batch, m, s.stride, n, rows, columns, sums, false, false));
    Product[] mixtures =
        s.perTile(m -> new Spec(s.batch, m, s.tokens, s.d, p, values, result, false, false));
    int samples = Math.toIntExact(qkv.dim(0));
    Softmax saved =
        keep
            ? new Softmax(
                CpuTensor.of(engine.allocate(samples, heads, s.tokens)),
                CpuTensor.of(engine.allocate(samples, heads, s.tokens)))
            : null;
    workers.run(
        samples * s.groups(),
        (item, scratch) -> {
          HeadRows q = s.staged(scratch, Q, s.stride, headSize);
          HeadRows k = s.staged(scratch, K, s.stride, headSize);
          HeadRows v = s.factors(x, item, 3, 2, scratch, V, V_ROWS);
          HeadRows o = s.sums(scratch, OUT, s.stride, headSize);
          s.read(x, item, 3, 0, scratch, Q_ROWS)
              .normaliseTo(q, s.normal(qGain, 0, scratch, Q_GAIN));
          s.read(x, item, 3, 1, scratch, K_ROWS)
              .normaliseTo(k, s.normal(kGain, 0, scratch, K_GAIN));
          k.clearBehind(n);
          int queries = s.group * s.tokens;
          long kept = scratch.floats(KEPT, 2L * queries);
          long shifts = saved != null ? saved.shifts.address(s.query(item, 0)) : kept;
          long inverses =
              saved != null
                  ? saved.inverses.address(s.query(item, 0))
                  : kept + (long) queries * Float.BYTES;
          long score = scratch.floats(SCORES, s.batch * scoreSize);
          long factor = s.half ? scratch.bytes(FACTORS, s.batch * scoreSize * Short.BYTES) : score;
          long tail = s.tail(scratch, TAIL);
          for (int head = 0; head < s.group; head += s.batch) {
            for (int t = 0; t < s.tiles; t++) {
              int first = t * s.tile;
              s.of(scores, t).run(scratch, q.at(first, head), k.at(0, head), 0, score);
              for (int h = 0; h < s.batch; h++) {
                long query = ((long) (head + h) * s.tokens + first) * Float.BYTES;
                new SoftmaxRows(
                        score + h * scoreSize * Float.BYTES,
                        s.rows(t),
                        n,
                        n,
                        tail,
                        s.c,
                        s.scale,
                        shifts + query,
                        inverses + query,
                        0,
                        s.half,
                        factor + h * scoreSize * s.factorBytes)
                    .runInBlocks(SoftmaxRows.FORWARD);
              }
              s.of(mixtures, t).run(scratch, factor, v.at(0, head), 0, o.at(first, head));
            }
          }
          o.scaleTo(s.target(to, item, 1, 0, false, o), inverses, s.tokens);
          s.write(o, to, item, 1, 0, false, scratch);
        });
    return saved == null ? Saved.NOTHING : saved;
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
    AttentionShape s = new AttentionShape(products, heads, qkNorm, dOut);
    CpuTensor x = CpuTensor.of(qkv);
    CpuTensor dx = CpuTensor.of(dQkv);
    CpuTensor to = CpuTensor.of(dOut);
    Softmax softmax = (Softmax) saved;
    int n = s.length;
    int pair = 2 * s.stride;
    long headSize = 2 * s.headSize();
    long scoreSize = 2L * s.tile * n;
    // Ṡ = [q̇ | q] [k | k̇]ᵀ and ȯ = [Ṗ | P] [v ; v̇], one product each.
    Layout rows = s.rows(pair, headSize);
    Layout columns = s.columns(pair, headSize);
    Layout values = s.rows(s.stride, headSize);
    Layout sums = AttentionShape.sums(2L * n, scoreSize);
    Layout p = s.rows(2L * n, scoreSize);
    Layout result = Layout.rows(to.half(), s.width).every(s.d);
    Product[] scores =
        s.perTile(m -> new Spec(s.batch, m, s.stride, n, rows, columns, sums, false, false));
    Product[] tangents =
        s.perTile(m -> new Spec(s.batch, m, pair, n, rows, columns, sums, false, false));
    Product[] mixtures =
        s.perTile(m -> new Spec(s.batch, m, n + s.tokens, s.d, p, values, result, false, false));
    workers.run(
        Math.toIntExact(dQkv.dim(0)) * s.groups(),
        (item, scratch) -> {
          HeadRows dq = s.staged(scratch, Q, pair, headSize);
          HeadRows k = s.staged(scratch, K, pair, headSize);
          HeadRows v = s.staged(scratch, V, s.stride, headSize);
          long second = (long) s.stride * s.factorBytes;
          HeadRows q = s.staged(dq.address() + second, pair, headSize);
          HeadRows dk = s.staged(k.address() + second, pair, headSize);
          HeadRows dv = s.staged(v.at(n, 0), s.stride, headSize);
          HeadRows.Normal qNormal = s.normal(qGain, 0, scratch, Q_GAIN);
          HeadRows.Normal kNormal = s.normal(kGain, 0, scratch, K_GAIN);
          HeadRows qRows = s.read(x, item, 3, 0, scratch, Q_ROWS);
          HeadRows kRows = s.read(x, item, 3, 1, scratch, K_ROWS);
          qRows.normaliseTo(q, qNormal);
          qRows.tangentsTo(s.read(dx, item, 3, 0, scratch, D_ROWS), dq, qNormal);
          kRows.normaliseTo(k, kNormal);
          kRows.tangentsTo(s.read(dx, item, 3, 1, scratch, D_ROWS), dk, kNormal);
          s.read(x, item, 3, 2, scratch, V_ROWS).copyTo(v);
          s.read(dx, item, 3, 2, scratch, D_ROWS).copyTo(dv);
          k.clearBehind(n);
          dk.clearBehind(n);
          v.clearBehind(n);
          long score = scratch.floats(SCORES, s.batch * scoreSize);
          long factor = s.half ? scratch.bytes(FACTORS, s.batch * scoreSize * Short.BYTES) : score;
          long tail = s.tail(scratch, TAIL);
          long means = scratch.floats(MEANS, s.tile);
          for (int head = 0; head < s.group; head += s.batch) {
            for (int t = 0; t < s.tiles; t++) {
              int first = t * s.tile;
              long ofK = k.at(0, head);
              s.of(scores, t)
                  .run(scratch, q.at(first, head), ofK, 0, score + (long) n * Float.BYTES);
              s.of(tangents, t).run(scratch, dq.at(first, head), ofK, 0, score);
              for (int h = 0; h < s.batch; h++) {
                long skip = h * scoreSize;
                long query = s.query(item, head + h) + first;
                new SoftmaxRows(
                        score + skip * Float.BYTES,
                        s.rows(t),
                        2 * n,
                        n,
                        tail,
                        s.c,
                        s.scale,
                        softmax.shifts.address(query),
                        softmax.inverses.address(query),
                        means,
                        s.half,
                        factor + skip * s.factorBytes)
                    .runInBlocks(SoftmaxRows.TANGENT);
              }
              long place = to.address(s.element(item, 1, 0, first, head));
              s.of(mixtures, t).run(scratch, factor, v.at(0, head), 0, place);
            }
          }
        });
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
    AttentionShape s = new AttentionShape(products, heads, qkNorm, gOut);
    CpuTensor x = CpuTensor.of(qkv);
    CpuTensor g = CpuTensor.of(gOut);
    CpuTensor to = gQkv == null ? null : CpuTensor.of(gQkv.target());
    boolean add = gQkv != null && gQkv.add();
    Softmax softmax = (Softmax) saved;
    int columns = Simd.padded(s.tile);
    long headSize = s.headSize();
    long scoreSize = (long) s.tokens * columns;
    // [Sᵀ ; P̄ᵀ] = [k qᵀ ; v ōᵀ] and [k̄ ; v̄] = [S̄ᵀ q ; Pᵀ ō], one product of twice the heads
    // each.
    Layout rows = s.rows(s.stride, headSize);
    Layout transposed = s.columns(s.stride, headSize);
    Layout sums = AttentionShape.sums(columns, scoreSize);
    Layout p = s.rows(columns, scoreSize);
    Layout slopes = s.columns(columns, 2 * scoreSize);
    Layout keys = s.rows(s.stride, 2 * headSize);
    Layout result = AttentionShape.sums(s.stride, headSize);
    int two = 2 * s.batch;
    Product[] scores =
        s.perTile(
            m ->
                new Spec(
                    two, s.tokens, s.stride, Simd.padded(m), rows, transposed, sums, false, false));
    Product[] toHeads =
        s.perTile(m -> new Spec(two, s.tokens, m, s.stride, p, rows, result, false, false));
    Product[] moreToHeads =
        s.perTile(m -> new Spec(two, s.tokens, m, s.stride, p, rows, result, false, true));
    Product[] toQ =
        s.perTile(
            m -> new Spec(s.batch, m, s.tokens, s.stride, slopes, keys, result, false, false));
    int items = Math.toIntExact(qkv.dim(0)) * s.groups();
    try (Tensor partialQ = engine.allocate(items, s.stride);
        Tensor partialK = engine.allocate(items, s.stride)) {
      CpuTensor qSums = CpuTensor.of(partialQ);
      CpuTensor kSums = CpuTensor.of(partialK);
      workers.run(
          items,
          (item, scratch) -> {
            long qSum = qSums.address((long) item * s.stride);
            long kSum = kSums.address((long) item * s.stride);
            Simd.clear(qSum, s.stride);
            Simd.clear(kSum, s.stride);
            HeadRows k = s.staged(scratch, K, s.stride, 2 * headSize);
            HeadRows q = s.staged(scratch, Q, s.stride, 2 * headSize);
            HeadRows v = s.staged(k.at(s.length, 0), s.stride, 2 * headSize);
            HeadRows go = s.staged(q.at(s.length, 0), s.stride, 2 * headSize);
            HeadRows.Normal qNormal = s.normal(qGain, qSum, scratch, Q_GAIN);
            HeadRows.Normal kNormal = s.normal(kGain, kSum, scratch, K_GAIN);
            HeadRows qRows = s.read(x, item, 3, 0, scratch, Q_ROWS);
            HeadRows kRows = s.read(x, item, 3, 1, scratch, K_ROWS);
            qRows.normaliseTo(q, qNormal);
            kRows.normaliseTo(k, kNormal);
            s.read(x, item, 3, 2, scratch, V_ROWS).copyTo(v);
            s.read(g, item, 1, 0, scratch, D_ROWS).copyTo(go);
            q.clearBehind(s.length);
            go.clearBehind(s.length);
            HeadRows gq = s.sums(scratch, G_Q, s.stride, headSize);
            HeadRows gk = s.sums(scratch, G_K_V, s.stride, 2 * headSize);
            HeadRows gv = s.sums(gk.at(s.length, 0), s.stride, 2 * headSize);
            long score = scratch.floats(SCORES, two * scoreSize);
            long factor = s.half ? scratch.bytes(FACTORS, two * scoreSize * Short.BYTES) : score;
            long means = scratch.floats(MEANS, columns);
            for (int head = 0; head < s.group; head += s.batch) {
              for (int t = 0; t < s.tiles; t++) {
                int first = t * s.tile;
                s.of(scores, t).run(scratch, k.at(0, head), q.at(first, head), 0, score);
                for (int h = 0; h < s.batch; h++) {
                  long skip = 2L * h * scoreSize;
                  long query = s.query(item, head + h) + first;
                  new SoftmaxRows(
                          score + skip * Float.BYTES,
                          s.tokens,
                          columns,
                          Simd.padded(s.rows(t)),
                          0,
                          s.c,
                          s.scale,
                          softmax.shifts.address(query),
                          softmax.inverses.address(query),
                          means,
                          s.half,
                          factor + skip * s.factorBytes)
                      .run(SoftmaxRows.COTANGENT);
                }
                s.of(t == 0 ? toHeads : moreToHeads, t)
                    .run(scratch, factor, q.at(first, head), 0, gk.at(0, head));
                s.of(toQ, t).run(scratch, factor, k.at(0, head), 0, gq.at(first, head));
              }
            }
            HeadRows toQRows = to == null ? gq : s.target(to, item, 3, 0, add, gq);
            HeadRows toKRows = to == null ? gk : s.target(to, item, 3, 1, add, gk);
            qRows.cotangentsTo(gq, toQRows, qNormal);
            kRows.cotangentsTo(gk, toKRows, kNormal);
            if (to != null) {
              gv.copyTo(s.target(to, item, 3, 2, add, gv));
              s.write(gq, to, item, 3, 0, add, scratch);
              s.write(gk, to, item, 3, 1, add, scratch);
              s.write(gv, to, item, 3, 2, add, scratch);
            }
          });
      if (gqGain != null) {
        reductions.addUp(qSums, items, s.d, CpuTensor.of(gqGain.target()), gqGain.add());
      }
      if (gkGain != null) {
        reductions.addUp(kSums, items, s.d, CpuTensor.of(gkGain.target()), gkGain.add());
      }
    }
  }
}
