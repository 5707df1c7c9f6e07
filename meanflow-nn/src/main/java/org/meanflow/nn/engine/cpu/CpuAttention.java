package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.all;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;

import java.lang.foreign.MemorySegment;
import java.util.function.IntFunction;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;
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
 * <p>The heads of q, k and v are first copied from rows of all heads into matrices of their own, in
 * the type of factors and normalised if asked for: read row by row, memory streams; read head by
 * head, it does not (the products alone took twice as long on strided heads).
 *
 * <p>The forward kernel keeps two numbers for each query; the others compute probabilities from
 * them again, which costs less than writing and reading probabilities.
 */
final class CpuAttention implements AttentionKernels {
  /** Queries of one tile where there are many. */
  private static final int TILE = 128;

  /** Up to so many queries are one tile. */
  private static final int ONE_TILE = 256;

  /** Heads are staged together while their q, k and v take fewer bytes. */
  private static final long GROUP_BYTES = 800_000;

  /** Heads are multiplied together while three matrices of their scores take fewer bytes. */
  private static final long BATCH_BYTES = 400_000;

  private static final int ROW = 1;
  private static final int HEAD_ROW = 2;
  private static final int Q_GAIN = 3;
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
  private static final int SOURCE_ROW = 19;
  private static final int SOURCE_HEAD = 20;
  private static final int K_GAIN = 21;
  private static final int D_HAT = 22;

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
   * P = exp(scale·S − shift)·inverse for every query.
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

  /** Shapes and layouts of one call. */
  private final class Shape {
    final int heads;
    final int tokens;
    final int width;
    final int d;
    final Norm norm;

    /** Elements between the rows of a staged head. */
    final int stride;

    /** Elements between the rows of scores. */
    final int scoreStride;

    final int tile;
    final int tiles;
    final float scale;
    final boolean half = products.half();
    final int factorBytes = half ? Short.BYTES : Float.BYTES;

    /** Heads of one item of work. */
    final int group;

    /** Heads whose products are one call: the group or one. */
    final int batch;

    Shape(int heads, Norm norm, Tensor out) {
      this.heads = heads;
      this.norm = norm;
      tokens = Math.toIntExact(out.dim(1));
      width = Math.toIntExact(out.dim(2));
      d = width / heads;
      stride = Simd.padded(d);
      scoreStride = Simd.padded(tokens);
      tile = tokens <= ONE_TILE ? tokens : TILE;
      tiles = Math.ceilDiv(tokens, tile);
      scale = (float) (1 / Math.sqrt(d));
      long headBytes = 3L * tokens * stride * factorBytes;
      long scoreBytes = 3L * tile * scoreStride * Float.BYTES;
      int most = Math.clamp(GROUP_BYTES / headBytes, 1, heads);
      while (heads % most != 0) {
        most--;
      }
      group = most;
      batch = scoreBytes * group <= BATCH_BYTES ? group : 1;
    }

    int rows(int t) {
      return Math.min(tile, tokens - t * tile);
    }

    int groups() {
      return heads / group;
    }

    int sample(int item) {
      return item / groups();
    }

    int firstHead(int item) {
      return item % groups() * group;
    }

    /** Index of a query among those of all samples and heads, of a group's head. */
    long query(int item, int head) {
      return ((long) item * group + head) * tokens;
    }

    /** Elements of a staged head. */
    long headSize() {
      return (long) tokens * stride;
    }

    /** What {@link #stage} has put into a slot. */
    long staged(Scratch scratch, int slot) {
      return scratch.bytes(slot, group * headSize() * factorBytes);
    }

    /** Elements of a head's scores. */
    long scoreSize() {
      return (long) tile * scoreStride;
    }

    /** The products of one kind for whole tiles and for the last tile. */
    private Product[] perTile(IntFunction<Spec> specOfRows) {
      return new Product[] {
        products.product(specOfRows.apply(tile)),
        products.product(specOfRows.apply(rows(tiles - 1)))
      };
    }

    Product of(Product[] pair, int t) {
      return pair[t == tiles - 1 ? 1 : 0];
    }

    private Layout heads() {
      return Layout.rows(half, stride).every(headSize());
    }

    private Layout sums() {
      return Layout.rows(false, stride).every(headSize());
    }

    /** S = A Bᵀ, {@code [rows, tokens]}, of rows of length d. */
    Product[] scores(boolean add) {
      Layout b = Layout.transposed(half, stride).every(headSize());
      Layout c = Layout.rows(false, scoreStride).every(scoreSize());
      return perTile(rows -> new Spec(batch, rows, d, tokens, heads(), b, c, false, add));
    }

    /** P B, {@code [rows, d]}, with P in the type of factors. */
    Product[] mixtures(Layout c, boolean add) {
      Layout a = Layout.rows(half, scoreStride).every(scoreSize());
      return perTile(rows -> new Spec(batch, rows, tokens, d, a, heads(), c, false, add));
    }

    /** Pᵀ B, {@code [tokens, d]}, summed over tiles. */
    Product[] transposedMixtures(boolean add) {
      Layout a = Layout.transposed(half, scoreStride).every(scoreSize());
      return perTile(rows -> new Spec(batch, tokens, rows, d, a, heads(), sums(), false, add));
    }

    /** Scores of a batch as factors: themselves, or narrowed to bfloat16. */
    long factor(long scores, Scratch scratch, int slot) {
      if (!half) {
        return scores;
      }
      int length = Math.toIntExact(batch * scoreSize());
      long narrow = scratch.bytes(slot, (long) length * Short.BYTES);
      Simd.narrow(scores, narrow, length);
      return narrow;
    }
  }

  /** What is done to a row of d floats, zeros behind its end, before it is a factor. */
  @FunctionalInterface
  private interface RowMap {
    /** Returns where the changed row is. */
    long apply(long row, long sourceRow);
  }

  /**
   * Copies a group's heads of all parts out of rows of {@code parts·width} elements, in one pass
   * over the rows.
   *
   * @param x {@code [batch, tokens, parts·width]}
   * @param source rows of the same places that {@code maps} see, too; {@code null} for x itself
   * @param maps for each part what is done to its rows; {@code null} for nothing
   * @param slot of the first part's result, the others following: {@code [group, tokens, stride]}
   *     in the type of factors
   */
  private static void stage(
      Shape s,
      CpuTensor x,
      int item,
      @Nullable CpuTensor source,
      @Nullable RowMap[] maps,
      Scratch scratch,
      int slot) {
    long bytes = s.group * s.headSize() * s.factorBytes;
    for (int part = 0; part < maps.length; part++) {
      scratch.bytes(slot + part, bytes); // all slots before the first address is used
    }
    for (int token = 0; token < s.tokens; token++) {
      for (int part = 0; part < maps.length; part++) {
        long element = element(s, item, maps.length, part, token);
        long to = scratch.bytes(slot + part, bytes) + (long) token * s.stride * s.factorBytes;
        stageRow(s, x, element, source, maps[part], to, scratch);
      }
    }
  }

  /** The heads of one row. */
  private static void stageRow(
      Shape s,
      CpuTensor x,
      long element,
      @Nullable CpuTensor source,
      @Nullable RowMap map,
      long to,
      Scratch scratch) {
    int chunk = s.group * s.d;
    long headBytes = s.headSize() * s.factorBytes;
    if (map == null && x.half() == s.half && s.half) {
      for (int head = 0; head < s.group; head++) {
        MemorySegment.copy(
            Simd.ALL,
            x.address(element + (long) head * s.d),
            Simd.ALL,
            to + head * headBytes,
            (long) s.d * Short.BYTES);
      }
      return;
    }
    boolean whole = s.d % LANES == 0;
    long row = Simd.in(x, element, chunk, scratch, ROW);
    long sourceRow = source == null ? row : Simd.in(source, element, chunk, scratch, SOURCE_ROW);
    for (int head = 0; head < s.group; head++) {
      long own = headOf(s, row, head, whole, scratch, HEAD_ROW);
      if (map != null) {
        long ownSource =
            source == null ? own : headOf(s, sourceRow, head, whole, scratch, SOURCE_HEAD);
        own = map.apply(own, ownSource);
      }
      if (s.half) {
        Simd.narrow(own, to + head * headBytes, s.d);
      } else {
        copy(own, to + head * headBytes, s.stride);
      }
    }
  }

  private static long element(Shape s, int item, int parts, int part, int token) {
    long row = (long) s.sample(item) * s.tokens + token;
    return (row * parts + part) * s.width + (long) s.firstHead(item) * s.d;
  }

  /** A head's part of a row; copied if it is no whole number of vectors. */
  private static long headOf(
      Shape s, long row, int head, boolean whole, Scratch scratch, int slot) {
    long own = row + (long) head * s.d * Float.BYTES;
    if (whole) {
      return own;
    }
    long copied = scratch.floats(slot, s.stride);
    for (int i = 0; i < s.stride; i++) {
      Simd.set(
          copied + (long) i * Float.BYTES, i < s.d ? Simd.get(own + (long) i * Float.BYTES) : 0);
    }
    return copied;
  }

  private static void copy(long from, long to, int length) {
    for (int i = 0; i < length; i += LANES) {
      store(load(from, i), to, i);
    }
  }

  private static boolean changes(Norm norm, @Nullable Tensor gain) {
    return norm.kind() != Norm.Kind.NONE || gain != null;
  }

  private static long gain(Shape s, @Nullable Tensor gain, Scratch scratch, int slot) {
    return gain == null ? 0 : Simd.in(CpuTensor.of(gain), 0, s.d, scratch, slot);
  }

  /** Normalises a row of q or k; {@code null} if the call does not ask for it. */
  private static @Nullable RowMap normal(
      Shape s, @Nullable Tensor gain, Scratch scratch, int slot) {
    if (!changes(s.norm, gain)) {
      return null;
    }
    long g = gain(s, gain, scratch, slot);
    long hat = scratch.floats(HAT, s.stride);
    return (row, _) -> {
      NormRows.normalise(s.norm, row, hat, s.d);
      if (g != 0) {
        NormRows.multiply(hat, g, hat, s.stride);
      }
      return hat;
    };
  }

  /** The tangent of {@link #normal}. */
  private static @Nullable RowMap normalTangent(
      Shape s, @Nullable Tensor gain, Scratch scratch, int slot) {
    if (!changes(s.norm, gain)) {
      return null;
    }
    long g = gain(s, gain, scratch, slot);
    long hat = scratch.floats(HAT, s.stride);
    long result = scratch.floats(D_HAT, s.stride);
    return (row, source) -> {
      float inverse = NormRows.normalise(s.norm, source, hat, s.d);
      NormRows.slope(s.norm, hat, inverse, row, result, s.d);
      if (g != 0) {
        NormRows.multiply(result, g, result, s.stride);
      }
      return result;
    };
  }

  /** q, k and v as factors, in slots {@link #Q}, {@link #K} and {@link #V}. */
  private static void stageValues(
      Shape s,
      CpuTensor qkv,
      int item,
      @Nullable Tensor qGain,
      @Nullable Tensor kGain,
      Scratch scratch) {
    @Nullable RowMap[] maps = {
      normal(s, qGain, scratch, Q_GAIN), normal(s, kGain, scratch, K_GAIN), null
    };
    stage(s, qkv, item, null, maps, scratch, Q);
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
    Shape s = new Shape(heads, qkNorm, out);
    CpuTensor x = CpuTensor.of(qkv);
    CpuTensor to = CpuTensor.of(out);
    Product[] scores = s.scores(false);
    Product[] mixtures = s.mixtures(Layout.rows(to.half(), s.width).every(s.d), false);
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
          stageValues(s, x, item, qGain, kGain, scratch);
          long q = s.staged(scratch, Q);
          long k = s.staged(scratch, K);
          long v = s.staged(scratch, V);
          long p = scratch.floats(SCORES, s.batch * s.scoreSize());
          for (int head = 0; head < s.group; head += s.batch) {
            long skip = head * s.headSize() * s.factorBytes;
            for (int t = 0; t < s.tiles; t++) {
              long first = (long) t * s.tile;
              long tileSkip = skip + first * s.stride * s.factorBytes;
              s.of(scores, t).run(scratch, q + tileSkip, k + skip, 0, p);
              for (int h = 0; h < s.batch; h++) {
                long own = p + h * s.scoreSize() * Float.BYTES;
                softmax(s, s.rows(t), own, saved, s.query(item, head + h) + first, scratch);
              }
              long factor = s.factor(p, scratch, HALF_SCORES);
              long element = element(s, item, 1, 0, t * s.tile) + (long) head * s.d;
              s.of(mixtures, t).run(scratch, factor, v + skip, 0, to.address(element));
            }
          }
        });
    return saved == null ? Saved.NOTHING : saved;
  }

  /**
   * P from S, in place, for a tile of queries. In loops over all rows, each short: so the processor
   * works on several rows at once instead of waiting for one row's maximum and sum.
   */
  private static void softmax(
      Shape s, int rows, long p, @Nullable Softmax saved, long query, Scratch scratch) {
    long shifts = saved != null ? saved.shifts.address(query) : scratch.floats(HAT, 2L * s.tile);
    long inverses =
        saved != null ? saved.inverses.address(query) : shifts + (long) s.tile * Float.BYTES;
    maxima(p, rows, s.tokens, s.scoreStride, s.scale, shifts);
    exponentials(p, rows, s.scoreStride, s.scale, shifts, inverses);
    multiplyRows(p, rows, s.scoreStride, inverses);
  }

  /** The largest of each row times {@code scale}; −∞ is put behind the rows' ends. */
  private static void maxima(long p, int rows, int tokens, int stride, float scale, long result) {
    for (int row = 0; row < rows; row++) {
      long scores = p + (long) row * stride * Float.BYTES;
      for (int i = tokens; i < stride; i++) {
        Simd.set(scores + (long) i * Float.BYTES, Float.NEGATIVE_INFINITY);
      }
      FloatVector most = load(scores);
      for (int i = LANES; i < stride; i += LANES) {
        most = most.max(load(scores, i));
      }
      Simd.set(result + (long) row * Float.BYTES, scale * most.reduceLanes(VectorOperators.MAX));
    }
  }

  /** exp(scale·S − shift) in place, and 1/Σ of each row. */
  private static void exponentials(
      long p, int rows, int stride, float scale, long shifts, long inverses) {
    FloatVector scales = all(scale);
    for (int row = 0; row < rows; row++) {
      long scores = p + (long) row * stride * Float.BYTES;
      FloatVector shift = all(-Simd.get(shifts + (long) row * Float.BYTES));
      FloatVector sum = FloatVector.zero(Simd.FLOATS);
      for (int i = 0; i < stride; i += LANES) {
        FloatVector e = Simd.exp(load(scores, i).fma(scales, shift));
        sum = sum.add(e);
        store(e, scores, i);
      }
      Simd.set(inverses + (long) row * Float.BYTES, 1 / Simd.sum(sum));
    }
  }

  private static void multiplyRows(long p, int rows, int stride, long factors) {
    for (int row = 0; row < rows; row++) {
      long scores = p + (long) row * stride * Float.BYTES;
      FloatVector factor = all(Simd.get(factors + (long) row * Float.BYTES));
      for (int i = 0; i < stride; i += LANES) {
        store(load(scores, i).mul(factor), scores, i);
      }
    }
  }

  /** P from S as the forward kernel had it, in place; zeros behind the ends. */
  private static void probabilities(Shape s, Softmax saved, long query, int rows, long p) {
    FloatVector scale = all(s.scale);
    for (int row = 0; row < rows; row++) {
      long scores = p + (long) row * s.scoreStride * Float.BYTES;
      FloatVector shift = all(-Simd.get(saved.shifts.address(query + row)));
      FloatVector inverse = all(Simd.get(saved.inverses.address(query + row)));
      for (int i = 0; i < s.scoreStride; i += LANES) {
        store(Simd.exp(load(scores, i).fma(scale, shift)).mul(inverse), scores, i);
      }
      for (int i = s.tokens; i < s.scoreStride; i++) {
        Simd.set(scores + (long) i * Float.BYTES, 0);
      }
    }
  }

  /**
   * scale·P ⊙ (D − Σ P ⊙ D) for the rows of a tile, in place of D: the slope of softmax, for
   * tangents and cotangents.
   */
  private static void softmaxSlopes(Shape s, int rows, long p, long d) {
    FloatVector scale = all(s.scale);
    for (int row = 0; row < rows; row++) {
      long probabilities = p + (long) row * s.scoreStride * Float.BYTES;
      long slopes = d + (long) row * s.scoreStride * Float.BYTES;
      for (int i = s.tokens; i < s.scoreStride; i++) {
        Simd.set(slopes + (long) i * Float.BYTES, 0);
      }
      FloatVector mean = all(Simd.dot(probabilities, slopes, s.scoreStride));
      for (int i = 0; i < s.scoreStride; i += LANES) {
        FloatVector slope = load(probabilities, i).mul(load(slopes, i).sub(mean));
        store(slope.mul(scale), slopes, i);
      }
    }
  }

  /** {@link #probabilities} and {@link #softmaxSlopes} for a batch of heads. */
  private static void slopes(Shape s, Softmax saved, int item, int head, int t, long p, long d) {
    for (int h = 0; h < s.batch; h++) {
      long skip = h * s.scoreSize() * Float.BYTES;
      long query = s.query(item, head + h) + (long) t * s.tile;
      probabilities(s, saved, query, s.rows(t), p + skip);
      softmaxSlopes(s, s.rows(t), p + skip, d + skip);
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
    Shape s = new Shape(heads, qkNorm, dOut);
    CpuTensor x = CpuTensor.of(qkv);
    CpuTensor dx = CpuTensor.of(dQkv);
    CpuTensor to = CpuTensor.of(dOut);
    Softmax softmax = (Softmax) saved;
    Product[] scores = s.scores(false);
    Product[] moreScores = s.scores(true);
    // The sum of two products is taken in float32.
    Product[] mixtures = s.mixtures(s.sums(), false);
    Product[] moreMixtures = s.mixtures(s.sums(), true);
    workers.run(
        Math.toIntExact(dQkv.dim(0)) * s.groups(),
        (item, scratch) -> {
          stageValues(s, x, item, qGain, kGain, scratch);
          long q = s.staged(scratch, Q);
          long k = s.staged(scratch, K);
          long v = s.staged(scratch, V);
          @Nullable RowMap[] maps = {
            normalTangent(s, qGain, scratch, Q_GAIN), normalTangent(s, kGain, scratch, K_GAIN), null
          };
          stage(s, dx, item, x, maps, scratch, D_Q);
          long dq = s.staged(scratch, D_Q);
          long dk = s.staged(scratch, D_K);
          long dv = s.staged(scratch, D_V);
          long p = scratch.floats(SCORES, s.batch * s.scoreSize());
          long d = scratch.floats(SLOPES, s.batch * s.scoreSize());
          long o = scratch.floats(OUT, s.group * s.headSize());
          for (int head = 0; head < s.group; head += s.batch) {
            long skip = head * s.headSize() * s.factorBytes;
            for (int t = 0; t < s.tiles; t++) {
              long first = (long) t * s.tile * s.stride;
              long tileSkip = skip + first * s.factorBytes;
              s.of(scores, t).run(scratch, q + tileSkip, k + skip, 0, p);
              s.of(scores, t).run(scratch, dq + tileSkip, k + skip, 0, d);
              s.of(moreScores, t).run(scratch, q + tileSkip, dk + skip, 0, d);
              slopes(s, softmax, item, head, t, p, d);
              long oTile = o + (head * s.headSize() + first) * Float.BYTES;
              long slopeFactor = s.factor(d, scratch, HALF_SLOPES);
              s.of(mixtures, t).run(scratch, slopeFactor, v + skip, 0, oTile);
              long factor = s.factor(p, scratch, HALF_SCORES);
              s.of(moreMixtures, t).run(scratch, factor, dv + skip, 0, oTile);
            }
          }
          unstage(s, o, item, to, 1, 0, false, scratch);
        });
  }

  /** Writes a group's heads, float32, back into rows of {@code parts·width} elements. */
  private static void unstage(
      Shape s,
      long staged,
      int item,
      CpuTensor to,
      int parts,
      int part,
      boolean add,
      Scratch scratch) {
    int chunk = s.group * s.d;
    for (int token = 0; token < s.tokens; token++) {
      long element = element(s, item, parts, part, token);
      long from = staged + (long) token * s.stride * Float.BYTES;
      if (s.d % LANES == 0) {
        long target =
            add
                ? Simd.in(to, element, chunk, scratch, ROW)
                : Simd.out(to, element, chunk, scratch, ROW);
        for (int head = 0; head < s.group; head++) {
          long own = from + head * s.headSize() * Float.BYTES;
          long place = target + (long) head * s.d * Float.BYTES;
          if (add) {
            Simd.addTo(own, place, s.d);
          } else {
            copy(own, place, s.d);
          }
        }
        Simd.done(to, element, chunk, target);
      } else {
        for (int head = 0; head < s.group; head++) {
          long own = from + head * s.headSize() * Float.BYTES;
          CpuNorm.writeRow(to, element + (long) head * s.d, s.d, own, add, scratch, ROW);
        }
      }
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
    Shape s = new Shape(heads, qkNorm, gOut);
    CpuTensor x = CpuTensor.of(qkv);
    CpuTensor g = CpuTensor.of(gOut);
    Softmax softmax = (Softmax) saved;
    Product[] scores = s.scores(false);
    Product[] toQ = s.mixtures(s.sums(), false);
    Product[] toHeads = s.transposedMixtures(false);
    Product[] moreToHeads = s.transposedMixtures(true);
    int items = Math.toIntExact(qkv.dim(0)) * s.groups();
    try (Tensor partialQ = engine.allocate(items, s.stride);
        Tensor partialK = engine.allocate(items, s.stride)) {
      CpuTensor qSums = CpuTensor.of(partialQ);
      CpuTensor kSums = CpuTensor.of(partialK);
      workers.run(
          items,
          (item, scratch) -> {
            stageValues(s, x, item, qGain, kGain, scratch);
            long q = s.staged(scratch, Q);
            long k = s.staged(scratch, K);
            long v = s.staged(scratch, V);
            stage(s, g, item, null, new @Nullable RowMap[1], scratch, D_V);
            long go = s.staged(scratch, D_V);
            long gq = scratch.floats(G_Q, s.group * s.headSize());
            long gk = scratch.floats(G_K, s.group * s.headSize());
            long gv = scratch.floats(G_V, s.group * s.headSize());
            long p = scratch.floats(SCORES, s.batch * s.scoreSize());
            long d = scratch.floats(SLOPES, s.batch * s.scoreSize());
            for (int head = 0; head < s.group; head += s.batch) {
              long skip = head * s.headSize() * s.factorBytes;
              long sumSkip = head * s.headSize() * Float.BYTES;
              for (int t = 0; t < s.tiles; t++) {
                long first = (long) t * s.tile * s.stride;
                long tileSkip = skip + first * s.factorBytes;
                s.of(scores, t).run(scratch, q + tileSkip, k + skip, 0, p);
                s.of(scores, t).run(scratch, go + tileSkip, v + skip, 0, d);
                slopes(s, softmax, item, head, t, p, d);
                long pFactor = s.factor(p, scratch, HALF_SCORES);
                long dFactor = s.factor(d, scratch, HALF_SLOPES);
                Product[] sum = t == 0 ? toHeads : moreToHeads;
                s.of(sum, t).run(scratch, pFactor, go + tileSkip, 0, gv + sumSkip);
                s.of(sum, t).run(scratch, dFactor, q + tileSkip, 0, gk + sumSkip);
                s.of(toQ, t).run(scratch, dFactor, k + skip, 0, gq + sumSkip + first * Float.BYTES);
              }
            }
            normalBackward(
                s, x, 0, item, qGain, gq, qSums.address((long) item * s.stride), scratch);
            normalBackward(
                s, x, 1, item, kGain, gk, kSums.address((long) item * s.stride), scratch);
            if (gQkv != null) {
              CpuTensor to = CpuTensor.of(gQkv.target());
              unstage(s, gq, item, to, 3, 0, gQkv.add(), scratch);
              unstage(s, gk, item, to, 3, 1, gQkv.add(), scratch);
              unstage(s, gv, item, to, 3, 2, gQkv.add(), scratch);
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

  /**
   * From the cotangents of normalised q or k, {@code [group, tokens, stride]}, to those of q or k,
   * in place, and to the group's share of the gain's.
   */
  private static void normalBackward(
      Shape s,
      CpuTensor x,
      int part,
      int item,
      @Nullable Tensor gain,
      long g,
      long gainSum,
      Scratch scratch) {
    Simd.clear(gainSum, s.stride);
    if (!changes(s.norm, gain)) {
      return;
    }
    long factors = gain(s, gain, scratch, Q_GAIN);
    long hat = scratch.floats(HAT, s.stride);
    int chunk = s.group * s.d;
    boolean whole = s.d % LANES == 0;
    for (int token = 0; token < s.tokens; token++) {
      long row = Simd.in(x, element(s, item, 3, part, token), chunk, scratch, ROW);
      for (int head = 0; head < s.group; head++) {
        long own = headOf(s, row, head, whole, scratch, HEAD_ROW);
        long d = g + (head * s.headSize() + (long) token * s.stride) * Float.BYTES;
        for (int j = s.d; j < s.stride; j++) {
          Simd.set(d + (long) j * Float.BYTES, 0); // products leave what is behind the end
        }
        float inverse = NormRows.normalise(s.norm, own, hat, s.d);
        NormRows.addProduct(hat, d, gainSum, s.stride);
        if (factors != 0) {
          NormRows.multiply(d, factors, d, s.stride);
        }
        NormRows.slope(s.norm, hat, inverse, d, d, s.d);
      }
    }
  }
}
