package org.meanflow.nn.engine.cpu;

import java.util.function.IntFunction;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.engine.cpu.Product.Layout;
import org.meanflow.nn.engine.cpu.Product.Spec;

/** Sizes and layouts of one call of an attention kernel. */
final class AttentionShape {
  /** Queries of one tile where there are many. */
  private static final int TILE = 128;

  /** Up to so many queries are one tile. */
  private static final int ONE_TILE = 256;

  /** Heads are staged together while their q, k and v take fewer bytes. */
  private static final long GROUP_BYTES = 800_000;

  /** Heads are multiplied together while three matrices of their scores take fewer bytes. */
  private static final long BATCH_BYTES = 400_000;

  final int heads;
  final int tokens;
  final int width;
  final int d;

  /** {@link #d} up to whole vectors: elements of a staged row. */
  final int stride;

  /**
   * {@link #tokens} up to whole vectors, rows of a staged head. As the columns of scores: for 49
   * they take a product twice as long as for 64.
   */
  final int length;

  final int tile;
  final int tiles;

  /** 1/√d. */
  final float scale;

  /** scale·log₂e. */
  final float c;

  /** Whether factors of products are bfloat16. */
  final boolean half;

  final int factorBytes;

  /** Heads of one item of work. */
  final int group;

  /** Heads whose products are one call: the group or one. */
  final int batch;

  private final Products products;
  private final Norm norm;

  /**
   * Plans a call.
   *
   * @param out a tensor {@code [batch, tokens, width]}
   */
  AttentionShape(Products products, int heads, Norm norm, Tensor out) {
    this.products = products;
    this.heads = heads;
    this.norm = norm;
    tokens = Math.toIntExact(out.dim(1));
    width = Math.toIntExact(out.dim(2));
    d = width / heads;
    stride = Simd.padded(d);
    length = Simd.padded(tokens);
    tile = tokens <= ONE_TILE ? tokens : TILE;
    tiles = Math.ceilDiv(tokens, tile);
    scale = (float) (1 / Math.sqrt(d));
    c = (float) (1 / (Math.sqrt(d) * Math.log(2)));
    half = products.half();
    factorBytes = half ? Short.BYTES : Float.BYTES;
    int most = Math.clamp(GROUP_BYTES / (3 * headSize() * factorBytes), 1, heads);
    while (heads % most != 0) {
      most--;
    }
    group = most;
    batch = 3L * tile * length * Float.BYTES * group <= BATCH_BYTES ? group : 1;
  }

  /** Queries of a tile. */
  int rows(int t) {
    return Math.min(tile, tokens - t * tile);
  }

  int groups() {
    return heads / group;
  }

  /** Index of a query among those of all samples and heads, of a group's head. */
  long query(int item, int head) {
    return ((long) item * group + head) * tokens;
  }

  /** Index of the first element of a group's head in rows of {@code parts·width} elements. */
  long element(int item, int parts, int part, int token, int head) {
    long row = (long) (item / groups()) * tokens + token;
    return (row * parts + part) * width + (item % groups() * group + head) * (long) d;
  }

  /** Elements of a staged head. */
  long headSize() {
    return (long) length * stride;
  }

  /** Factors in scratch memory. */
  HeadRows staged(Scratch scratch, int slot, int rowElements, long headElements) {
    long bytes = group * headElements * factorBytes;
    return staged(scratch.bytes(slot, bytes), rowElements, headElements);
  }

  /** Factors at an address. */
  HeadRows staged(long address, int rowElements, long headElements) {
    return new HeadRows(
        address,
        (long) rowElements * factorBytes,
        headElements * factorBytes,
        half,
        tokens,
        group,
        stride);
  }

  /** Float32 rows in scratch memory. */
  HeadRows sums(Scratch scratch, int slot, int rowElements, long headElements) {
    long address =
        scratch.floats(slot, Math.max(group * headElements, (long) length * rowElements));
    return sums(address, rowElements, headElements);
  }

  /** Float32 rows at an address. */
  HeadRows sums(long address, int rowElements, long headElements) {
    long rowBytes = (long) rowElements * Float.BYTES;
    return new HeadRows(
        address, rowBytes, headElements * Float.BYTES, false, tokens, group, stride);
  }

  /** A group's heads in rows of {@code parts·width} elements, where they are. */
  HeadRows in(CpuTensor x, int item, int parts, int part) {
    int bytes = x.elementBytes();
    long address = x.address(element(item, parts, part, 0, 0));
    long rowBytes = (long) parts * width * bytes;
    return new HeadRows(address, rowBytes, (long) d * bytes, x.half(), tokens, group, stride);
  }

  /** The same in whole vectors, zeros behind the ends of rows; copied if needed, as float32. */
  HeadRows read(CpuTensor x, int item, int parts, int part, Scratch scratch, int slot) {
    if (stride == d) {
      return in(x, item, parts, part);
    }
    HeadRows rows = sums(scratch, slot, group * stride, stride);
    for (int token = 0; token < tokens; token++) {
      for (int head = 0; head < group; head++) {
        long element = element(item, parts, part, token, head);
        long row = Simd.in(x, element, d, scratch, CpuAttention.ROW);
        Simd.copyRow(row, rows.at(token, head), stride);
      }
    }
    return rows;
  }

  /** A group's heads as factors where they are, or a copy if they are of another type. */
  HeadRows factors(
      CpuTensor x, int item, int parts, int part, Scratch scratch, int slot, int rowSlot) {
    if (x.half() == half) {
      return in(x, item, parts, part);
    }
    HeadRows copy = staged(scratch, slot, stride, headSize());
    read(x, item, parts, part, scratch, rowSlot).copyTo(copy);
    return copy;
  }

  /** Layout of {@link #factors}. */
  Layout layoutOfFactors(CpuTensor x, int parts) {
    return x.half() == half
        ? Layout.rows(half, (long) parts * width).every(d)
        : rows(stride, headSize());
  }

  /** Where results in whole vectors go: into the tensor, or into {@code staged}. */
  HeadRows target(CpuTensor to, int item, int parts, int part, boolean add, HeadRows staged) {
    return stride == d && !add ? in(to, item, parts, part) : staged;
  }

  /** Copies or adds results to a tensor, unless {@link #target} put them there. */
  void write(
      HeadRows from, CpuTensor to, int item, int parts, int part, boolean add, Scratch scratch) {
    if (stride == d) {
      if (add) {
        from.addTo(in(to, item, parts, part));
      }
      return;
    }
    for (int token = 0; token < from.tokens(); token++) {
      for (int head = 0; head < from.heads(); head++) {
        long element = element(item, parts, part, token, head);
        CpuNorm.writeRow(to, element, d, from.at(token, head), add, scratch, CpuAttention.ROW);
      }
    }
  }

  /**
   * How q or k is normalised.
   *
   * @param gainSum what the gain's cotangent is added to; 0 if none is computed
   * @param slot of the gain; the following one is used, too
   */
  HeadRows.Normal normal(@Nullable Tensor gain, long gainSum, Scratch scratch, int slot) {
    long ones = scratch.floats(slot + 1, stride + 4L * group * length);
    for (int i = 0; i < stride; i++) {
      Simd.set(ones, i, i < d ? 1 : 0);
    }
    long means = ones + (long) stride * Float.BYTES;
    long bytes = (long) group * length * Float.BYTES;
    long factors = gain == null ? ones : Simd.in(CpuTensor.of(gain), 0, d, scratch, slot);
    return new HeadRows.Normal(
        norm,
        d,
        ones,
        factors,
        means,
        means + bytes,
        means + 2 * bytes,
        means + 3 * bytes,
        length,
        gainSum);
  }

  /** What is added to the last vector of a row of scores: −∞ behind the row's end. */
  long tail(Scratch scratch, int slot) {
    long tail = scratch.floats(slot, Simd.LANES);
    for (int i = 0; i < Simd.LANES; i++) {
      boolean behind = length - Simd.LANES + i >= tokens;
      Simd.set(tail + (long) i * Float.BYTES, behind ? Float.NEGATIVE_INFINITY : 0);
    }
    return tail;
  }

  /** Factors, in rows. */
  Layout rows(long rowElements, long headElements) {
    return Layout.rows(half, rowElements).every(headElements);
  }

  /** Factors, in columns. */
  Layout columns(long rowElements, long headElements) {
    return Layout.transposed(half, rowElements).every(headElements);
  }

  /** Results in float32. */
  static Layout sums(long rowElements, long headElements) {
    return Layout.rows(false, rowElements).every(headElements);
  }

  /** The products of one kind for whole tiles and for the last tile. */
  Product[] perTile(IntFunction<Spec> specOfRows) {
    return new Product[] {
      products.product(specOfRows.apply(tile)), products.product(specOfRows.apply(rows(tiles - 1)))
    };
  }

  Product of(Product[] pair, int t) {
    return pair[t == tiles - 1 ? 1 : 0];
  }
}
