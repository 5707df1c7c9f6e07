package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.all;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;

import java.util.function.IntFunction;
import jdk.incubator.vector.FloatVector;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.AttentionKernels;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.engine.cpu.Product.Layout;
import org.meanflow.nn.engine.cpu.Product.Spec;

/**
 * Attention, one head of one sample at a time, its queries in tiles: all scores, probabilities and
 * their tangents and cotangents live in scratch memory the size of a second-level cache. Products
 * read q, k and v where they lie, unless they are normalised first.
 *
 * <p>The forward kernel keeps the logarithm of each query's sum of exponentials; the others compute
 * probabilities from it again, which costs less than writing and reading them.
 */
final class CpuAttention implements AttentionKernels {
  /** Queries of one tile where there are many. */
  private static final int TILE = 128;

  /** Up to so many queries are one tile. */
  private static final int ONE_TILE = 256;

  private static final int ROW = 1;
  private static final int OUT_ROW = 2;
  private static final int GAIN = 3;
  private static final int Q = 4;
  private static final int K = 5;
  private static final int V = 6;
  private static final int D_Q = 7;
  private static final int D_K = 8;
  private static final int D_V = 9;
  private static final int SCORES = 10;
  private static final int SLOPES = 11;
  private static final int HALF_SCORES = 12;
  private static final int HALF_SLOPES = 13;
  private static final int OUT = 14;
  private static final int HAT = 15;
  private static final int G_Q = 16;
  private static final int G_K = 17;
  private static final int G_V = 18;

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

  /** log Σ exp(score) of every query, {@code [batch, heads, tokens]}. */
  private record LogSums(CpuTensor values) implements Saved {
    @Override
    public void close() {
      values.close();
    }
  }

  /** Shapes and layouts of one call. */
  private final class Shape {
    final int heads;
    final int tokens;
    final int width;
    final int d;

    /** Elements between the rows of staged q, k, v. */
    final int stagedStride;

    /** Elements between the rows of scores. */
    final int scoreStride;

    final int tile;
    final int tiles;
    final float scale;
    final boolean half = products.half();

    /** Whether q and k are changed before they are multiplied. */
    final boolean normalised;

    Shape(int heads, Norm norm, @Nullable Tensor gain, Tensor out) {
      this.heads = heads;
      tokens = Math.toIntExact(out.dim(1));
      width = Math.toIntExact(out.dim(2));
      d = width / heads;
      stagedStride = Simd.padded(d);
      scoreStride = Simd.padded(tokens);
      tile = tokens <= ONE_TILE ? tokens : TILE;
      tiles = Math.ceilDiv(tokens, tile);
      scale = (float) (1 / Math.sqrt(d));
      normalised = norm.kind() != Norm.Kind.NONE || gain != null;
    }

    int rows(int t) {
      return Math.min(tile, tokens - t * tile);
    }

    /** First element of q (0), k (1) or v (2) of a head in {@code [batch, tokens, 3·width]}. */
    long element(int item, int part) {
      return (long) (item / heads) * tokens * 3 * width + part * (long) width + headOffset(item);
    }

    /** First element of a head in {@code [batch, tokens, width]}. */
    long outElement(int item) {
      return (long) (item / heads) * tokens * width + headOffset(item);
    }

    private long headOffset(int item) {
      return (long) (item % heads) * d;
    }

    /** Whether a part of a tensor has to be copied to be a factor. */
    boolean isStaged(CpuTensor x, boolean withNorm) {
      return (withNorm && normalised) || x.half() != half;
    }

    long stride(CpuTensor x, boolean withNorm, long own) {
      return isStaged(x, withNorm) ? stagedStride : own;
    }

    /** The products of one kind for whole tiles and for the last tile. */
    Product[] perTile(IntFunction<Spec> specOfRows) {
      Product whole = products.product(specOfRows.apply(tile));
      Product last = products.product(specOfRows.apply(rows(tiles - 1)));
      return new Product[] {whole, last};
    }

    Product of(Product[] pair, int t) {
      return pair[t == tiles - 1 ? 1 : 0];
    }

    /** S = A Bᵀ, {@code [rows, tokens]}, of rows of length d. */
    Product[] scores(long aStride, long bStride, boolean add) {
      return perTile(
          rows ->
              new Spec(
                  rows,
                  d,
                  tokens,
                  Layout.rows(half, aStride),
                  Layout.transposed(half, bStride),
                  Layout.rows(false, scoreStride),
                  false,
                  add));
    }

    /** P B, {@code [rows, d]}, with P in the type of factors. */
    Product[] mixtures(long bStride, boolean toHalf, long toStride, boolean add) {
      return perTile(
          rows ->
              new Spec(
                  rows,
                  tokens,
                  d,
                  Layout.rows(half, scoreStride),
                  Layout.rows(half, bStride),
                  Layout.rows(toHalf, toStride),
                  false,
                  add));
    }

    /** Pᵀ B, {@code [tokens, d]}, summed over tiles. */
    Product[] transposedMixtures(long bStride, boolean add) {
      return perTile(
          rows ->
              new Spec(
                  tokens,
                  rows,
                  d,
                  Layout.transposed(half, scoreStride),
                  Layout.rows(half, bStride),
                  Layout.rows(false, stagedStride),
                  false,
                  add));
    }

    /** Scores as factors: themselves, or narrowed to bfloat16. */
    long factor(long scores, int rows, Scratch scratch, int slot) {
      if (!half) {
        return scores;
      }
      long length = (long) rows * scoreStride;
      long narrow = scratch.bytes(slot, (long) tile * scoreStride * Short.BYTES);
      Simd.narrow(scores, narrow, Math.toIntExact(length));
      return narrow;
    }
  }

  /** Rows of d elements as a factor of a product: where they lie, or staged. */
  private static long plain(
      Shape s, CpuTensor x, long element, long stride, Scratch scratch, int slot) {
    if (!s.isStaged(x, false)) {
      return x.address(element);
    }
    long staged = scratch.floats(slot, (long) s.tokens * s.stagedStride);
    for (int row = 0; row < s.tokens; row++) {
      long from = Simd.in(x, element + row * stride, s.d, scratch, ROW);
      put(s, from, staged, row);
    }
    return staged;
  }

  /** Puts a row of d floats into staged rows, in the type of factors. */
  private static void put(Shape s, long row, long staged, int index) {
    if (s.half) {
      Simd.narrow(row, staged + (long) index * s.stagedStride * Short.BYTES, s.d);
    } else {
      copy(row, staged + (long) index * s.stagedStride * Float.BYTES, s.stagedStride);
    }
  }

  private static void copy(long from, long to, int length) {
    for (int i = 0; i < length; i += LANES) {
      store(load(from, i), to, i);
    }
  }

  /** Rows of q or k as a factor, normalised if the call asks for it. */
  private static long normal(
      Shape s,
      Norm norm,
      CpuTensor x,
      long element,
      @Nullable Tensor gain,
      Scratch scratch,
      int slot) {
    long stride = 3L * s.width;
    if (!s.normalised) {
      return plain(s, x, element, stride, scratch, slot);
    }
    long staged = scratch.floats(slot, (long) s.tokens * s.stagedStride);
    long row = scratch.floats(OUT_ROW, s.stagedStride);
    for (int i = 0; i < s.tokens; i++) {
      NormRows.normalise(norm, Simd.in(x, element + i * stride, s.d, scratch, ROW), row, s.d);
      multiplyByGain(s, gain, row, scratch);
      put(s, row, staged, i);
    }
    return staged;
  }

  /** Tangents of {@link #normal}. */
  private static long normalTangent(
      Shape s,
      Norm norm,
      CpuTensor x,
      CpuTensor dx,
      long element,
      @Nullable Tensor gain,
      Scratch scratch,
      int slot) {
    long stride = 3L * s.width;
    if (!s.normalised) {
      return plain(s, dx, element, stride, scratch, slot);
    }
    long staged = scratch.floats(slot, (long) s.tokens * s.stagedStride);
    long hat = scratch.floats(HAT, s.stagedStride);
    long row = scratch.floats(OUT_ROW, s.stagedStride);
    for (int i = 0; i < s.tokens; i++) {
      long source = Simd.in(x, element + i * stride, s.d, scratch, ROW);
      float inverse = NormRows.normalise(norm, source, hat, s.d);
      long d = Simd.in(dx, element + i * stride, s.d, scratch, ROW);
      NormRows.slope(norm, hat, inverse, d, row, s.d);
      multiplyByGain(s, gain, row, scratch);
      put(s, row, staged, i);
    }
    return staged;
  }

  private static void multiplyByGain(Shape s, @Nullable Tensor gain, long row, Scratch scratch) {
    if (gain != null) {
      long g = Simd.in(CpuTensor.of(gain), 0, s.d, scratch, GAIN);
      NormRows.multiply(row, g, row, s.stagedStride);
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
    Shape s = new Shape(heads, qkNorm, qGain, out);
    CpuTensor x = CpuTensor.of(qkv);
    CpuTensor to = CpuTensor.of(out);
    long own = 3L * s.width;
    Product[] scores = s.scores(s.stride(x, true, own), s.stride(x, true, own), false);
    Product[] mixtures = s.mixtures(s.stride(x, false, own), to.half(), s.width, false);
    int samples = Math.toIntExact(qkv.dim(0));
    CpuTensor logSums = keep ? CpuTensor.of(engine.allocate(samples, heads, s.tokens)) : null;
    workers.run(
        samples * heads,
        (item, scratch) -> {
          long q = normal(s, qkNorm, x, s.element(item, 0), qGain, scratch, Q);
          long k = normal(s, qkNorm, x, s.element(item, 1), kGain, scratch, K);
          long v = plain(s, x, s.element(item, 2), own, scratch, V);
          int factorBytes = s.half ? Short.BYTES : Float.BYTES;
          for (int t = 0; t < s.tiles; t++) {
            int rows = s.rows(t);
            long first = (long) t * s.tile;
            long p = scratch.floats(SCORES, (long) s.tile * s.scoreStride);
            s.of(scores, t).run(scratch, q + first * s.stride(x, true, own) * factorBytes, k, 0, p);
            for (int row = 0; row < rows; row++) {
              long scoreRow = p + (long) row * s.scoreStride * Float.BYTES;
              float logSum = CpuElementwise.softmax(scoreRow, scoreRow, s.tokens, s.scale);
              if (logSums != null) {
                Simd.set(logSums.address((long) item * s.tokens + first + row), logSum);
              }
            }
            long factor = s.factor(p, rows, scratch, HALF_SCORES);
            s.of(mixtures, t)
                .run(scratch, factor, v, 0, to.address(s.outElement(item) + first * s.width));
          }
        });
    return logSums == null ? Saved.NOTHING : new LogSums(logSums);
  }

  /** P = exp(scale·S − log sum) for the rows of a tile, in place; zeros behind the ends. */
  private static void probabilities(Shape s, CpuTensor logSums, long first, int rows, long scores) {
    FloatVector scale = all(s.scale);
    for (int row = 0; row < rows; row++) {
      long p = scores + (long) row * s.scoreStride * Float.BYTES;
      FloatVector shift = all(-Simd.get(logSums.address(first + row)));
      for (int i = 0; i < s.scoreStride; i += LANES) {
        store(Simd.exp(load(p, i).fma(scale, shift)), p, i);
      }
      for (int i = s.tokens; i < s.scoreStride; i++) {
        Simd.set(p + (long) i * Float.BYTES, 0);
      }
    }
  }

  /**
   * scale·P ⊙ (D − Σ P ⊙ D) for the rows of a tile, in place of D: the slope of softmax, for
   * tangents and cotangents.
   */
  private static void softmaxSlopes(Shape s, int rows, long p, long d) {
    for (int row = 0; row < rows; row++) {
      long offset = (long) row * s.scoreStride * Float.BYTES;
      for (int i = s.tokens; i < s.scoreStride; i++) {
        Simd.set(d + offset + (long) i * Float.BYTES, 0);
      }
      FloatVector mean = all(Simd.dot(p + offset, d + offset, s.scoreStride));
      FloatVector scale = all(s.scale);
      for (int i = 0; i < s.scoreStride; i += LANES) {
        FloatVector slope = load(p + offset, i).mul(load(d + offset, i).sub(mean));
        store(slope.mul(scale), d + offset, i);
      }
    }
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
    Shape s = new Shape(heads, qkNorm, qGain, dOut);
    CpuTensor x = CpuTensor.of(qkv);
    CpuTensor dx = CpuTensor.of(dQkv);
    CpuTensor to = CpuTensor.of(dOut);
    CpuTensor logSums = ((LogSums) saved).values;
    long own = 3L * s.width;
    long xStride = s.stride(x, true, own);
    long dStride = s.stride(dx, true, own);
    Product[] scores = s.scores(xStride, xStride, false);
    Product[] slopes = s.scores(dStride, xStride, false);
    Product[] moreSlopes = s.scores(xStride, dStride, true);
    // The sum of two products is taken in float32.
    long toStride = to.half() ? s.stagedStride : s.width;
    Product[] fromSlopes = s.mixtures(s.stride(x, false, own), false, toStride, false);
    Product[] fromTangents = s.mixtures(s.stride(dx, false, own), false, toStride, true);
    workers.run(
        Math.toIntExact(dQkv.dim(0)) * heads,
        (item, scratch) -> {
          long qElement = s.element(item, 0);
          long kElement = s.element(item, 1);
          long vElement = s.element(item, 2);
          long q = normal(s, qkNorm, x, qElement, qGain, scratch, Q);
          long k = normal(s, qkNorm, x, kElement, kGain, scratch, K);
          long v = plain(s, x, vElement, own, scratch, V);
          long dq = normalTangent(s, qkNorm, x, dx, qElement, qGain, scratch, D_Q);
          long dk = normalTangent(s, qkNorm, x, dx, kElement, kGain, scratch, D_K);
          long dv = plain(s, dx, vElement, own, scratch, D_V);
          int factorBytes = s.half ? Short.BYTES : Float.BYTES;
          for (int t = 0; t < s.tiles; t++) {
            int rows = s.rows(t);
            long first = (long) t * s.tile;
            long p = scratch.floats(SCORES, (long) s.tile * s.scoreStride);
            long d = scratch.floats(SLOPES, (long) s.tile * s.scoreStride);
            long qTile = q + first * xStride * factorBytes;
            s.of(scores, t).run(scratch, qTile, k, 0, p);
            s.of(slopes, t).run(scratch, dq + first * dStride * factorBytes, k, 0, d);
            s.of(moreSlopes, t).run(scratch, qTile, dk, 0, d);
            probabilities(s, logSums, (long) item * s.tokens + first, rows, p);
            softmaxSlopes(s, rows, p, d);
            long element = s.outElement(item) + first * s.width;
            long o =
                to.half()
                    ? scratch.floats(OUT, (long) s.tile * s.stagedStride)
                    : to.address(element);
            long slopeFactor = s.factor(d, rows, scratch, HALF_SLOPES);
            s.of(fromSlopes, t).run(scratch, slopeFactor, v, 0, o);
            s.of(fromTangents, t).run(scratch, s.factor(p, rows, scratch, HALF_SCORES), dv, 0, o);
            if (to.half()) {
              for (int row = 0; row < rows; row++) {
                long from = o + (long) row * s.stagedStride * Float.BYTES;
                Simd.narrow(from, to.address(element + (long) row * s.width), s.d);
              }
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
    Shape s = new Shape(heads, qkNorm, qGain, gOut);
    CpuTensor x = CpuTensor.of(qkv);
    CpuTensor g = CpuTensor.of(gOut);
    CpuTensor logSums = ((LogSums) saved).values;
    long own = 3L * s.width;
    long xStride = s.stride(x, true, own);
    long vStride = s.stride(x, false, own);
    long gStride = s.stride(g, false, s.width);
    Product[] scores = s.scores(xStride, xStride, false);
    Product[] slopes = s.scores(gStride, vStride, false);
    Product[] toQ = s.mixtures(xStride, false, s.stagedStride, false);
    Product[] toK = s.transposedMixtures(xStride, false);
    Product[] moreToK = s.transposedMixtures(xStride, true);
    Product[] toV = s.transposedMixtures(gStride, false);
    Product[] moreToV = s.transposedMixtures(gStride, true);
    int items = Math.toIntExact(qkv.dim(0)) * heads;
    int gainSums = gqGain != null || gkGain != null ? items : 1;
    try (Tensor partialQ = engine.allocate(gainSums, s.stagedStride);
        Tensor partialK = engine.allocate(gainSums, s.stagedStride)) {
      CpuTensor qSums = CpuTensor.of(partialQ);
      CpuTensor kSums = CpuTensor.of(partialK);
      workers.run(
          items,
          (item, scratch) -> {
            long q = normal(s, qkNorm, x, s.element(item, 0), qGain, scratch, Q);
            long k = normal(s, qkNorm, x, s.element(item, 1), kGain, scratch, K);
            long v = plain(s, x, s.element(item, 2), own, scratch, V);
            long go = plain(s, g, s.outElement(item), s.width, scratch, D_V);
            long all = (long) s.tokens * s.stagedStride;
            long gq = scratch.floats(G_Q, all);
            long gk = scratch.floats(G_K, all);
            long gv = scratch.floats(G_V, all);
            int factorBytes = s.half ? Short.BYTES : Float.BYTES;
            for (int t = 0; t < s.tiles; t++) {
              int rows = s.rows(t);
              long first = (long) t * s.tile;
              long p = scratch.floats(SCORES, (long) s.tile * s.scoreStride);
              long d = scratch.floats(SLOPES, (long) s.tile * s.scoreStride);
              long qTile = q + first * xStride * factorBytes;
              long gTile = go + first * gStride * factorBytes;
              s.of(scores, t).run(scratch, qTile, k, 0, p);
              s.of(slopes, t).run(scratch, gTile, v, 0, d);
              probabilities(s, logSums, (long) item * s.tokens + first, rows, p);
              softmaxSlopes(s, rows, p, d);
              long pFactor = s.factor(p, rows, scratch, HALF_SCORES);
              long dFactor = s.factor(d, rows, scratch, HALF_SLOPES);
              s.of(t == 0 ? toV : moreToV, t).run(scratch, pFactor, gTile, 0, gv);
              s.of(t == 0 ? toK : moreToK, t).run(scratch, dFactor, qTile, 0, gk);
              s.of(toQ, t).run(scratch, dFactor, k, 0, gq + first * s.stagedStride * Float.BYTES);
            }
            long qSum = qSums.address(gainSums == 1 ? 0 : (long) item * s.stagedStride);
            long kSum = kSums.address(gainSums == 1 ? 0 : (long) item * s.stagedStride);
            normalBackward(
                s, qkNorm, x, s.element(item, 0), qGain, gq, gQkv, gqGain != null, qSum, scratch);
            normalBackward(
                s, qkNorm, x, s.element(item, 1), kGain, gk, gQkv, gkGain != null, kSum, scratch);
            if (gQkv != null) {
              for (int i = 0; i < s.tokens; i++) {
                writeRow(s, gQkv, s.element(item, 2) + i * own, row(s, gv, i), scratch);
              }
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

  private static long row(Shape s, long rows, int index) {
    return rows + (long) index * s.stagedStride * Float.BYTES;
  }

  private static void writeRow(Shape s, Cotangent to, long element, long row, Scratch scratch) {
    CpuNorm.writeRow(CpuTensor.of(to.target()), element, s.d, row, to.add(), scratch, ROW);
  }

  /** From the cotangents of normalised q or k to those of q or k and to the gain's. */
  private static void normalBackward(
      Shape s,
      Norm norm,
      CpuTensor x,
      long element,
      @Nullable Tensor gain,
      long g,
      @Nullable Cotangent gQkv,
      boolean sumGain,
      long gainSum,
      Scratch scratch) {
    long stride = 3L * s.width;
    if (sumGain) {
      Simd.clear(gainSum, s.stagedStride);
    }
    long hat = scratch.floats(HAT, s.stagedStride);
    for (int i = 0; i < s.tokens; i++) {
      long d = row(s, g, i);
      for (int j = s.d; j < s.stagedStride; j++) {
        Simd.set(d + (long) j * Float.BYTES, 0); // products leave what is behind the end
      }
      if (s.normalised || sumGain) {
        long source = Simd.in(x, element + i * stride, s.d, scratch, ROW);
        float inverse = NormRows.normalise(norm, source, hat, s.d);
        if (sumGain) {
          NormRows.addProduct(hat, d, gainSum, s.stagedStride);
        }
        multiplyByGain(s, gain, d, scratch);
        NormRows.slope(norm, hat, inverse, d, d, s.d);
      }
      if (gQkv != null) {
        writeRow(s, gQkv, element + i * stride, d, scratch);
      }
    }
  }
}
