package org.meanflow.nn.engine.cpu;

import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.cpu.Panels.Chunk;
import org.meanflow.nn.engine.cpu.Product.Layout;
import org.meanflow.nn.engine.cpu.Product.Spec;

/**
 * Rows in tiles that stay in a core's cache, times the panels of a matrix, chunk by chunk of its
 * rows. The products are added up in memory of their own: within the rows of a wide tensor, which
 * often lie a multiple of 1 KB apart, sums would share few sets of the cache, and products take
 * about 1.3 times as long.
 */
final class TileProduct {
  /** Rows of a tile: fewer read the matrix too often, more leave the second-level cache. */
  private static final long ROWS = 256;

  /** The same for {@link Factor#JOINED}, which takes more memory. */
  private static final long JOINED_ROWS = 192;

  /** There are at least so many tiles, to be shared out, unless they became too small. */
  private static final long TILES = 4;

  private static final long LEAST_ROWS = 128;
  private static final long MULTIPLE = 16;

  /** Rows of factors and sums are this much longer, so that they don't share sets of the cache. */
  private static final long GAP = 32;

  /** Single products are written into rows of up to so many elements at once. */
  private static final long LONGEST_DIRECT = 512;

  private static final int SUMS_SLOT = 5;

  private final Panels b;
  private final Pieces tiles;
  private final @Nullable Result result;
  private final boolean summed;
  private final boolean direct;
  private final FactorPacking packing;
  private final FactorPacking filling;
  private final Product[] products = new Product[16];

  /**
   * What the sums become rows of.
   *
   * @param half whether they are bfloat16
   * @param stride elements between their rows
   * @param bias whether a row is added to every row
   * @param add whether they are added to what is there
   */
  record Result(boolean half, long stride, boolean bias, boolean add) {}

  /**
   * A product of tiles.
   *
   * @param all compiles
   * @param b the matrix
   * @param tiles the rows
   * @param direct whether the rows of a tensor are multiplied where they are, without being copied
   * @param result what the sums become rows of; {@code null} if they are wanted as they are
   */
  TileProduct(Products all, Panels b, Pieces tiles, boolean direct, @Nullable Result result) {
    this.b = b;
    this.result = result;
    summed =
        result == null
            || b.factor().parts > 1
            || b.chunks().count() > 1
            || result.stride > LONGEST_DIRECT;
    this.tiles = tiles;
    this.direct = direct;
    packing = FactorPacking.of(b.factor(), false);
    filling = FactorPacking.of(b.factor(), b.factor() == Factor.HALF);
    for (int i = 0; i < products.length; i++) {
      products[i] = products[known(i)];
      if (products[i] == null) {
        products[i] = all.product(spec((i & 8) != 0, (i & 4) != 0, (i & 2) != 0, (i & 1) != 0));
      }
    }
  }

  /** The index of a product of the same shapes, if there is one before. */
  private int known(int i) {
    int index = i;
    if (tiles.size(true) == tiles.size()) {
      index &= ~8;
    }
    if (b.columns().count() == 1) {
      index &= ~4;
    }
    if (b.chunks().count() == 1) {
      index &= ~2;
    }
    return index;
  }

  private Spec spec(boolean lastTile, boolean lastPanel, boolean lastChunk, boolean add) {
    long k = b.factor().side * b.chunks().size(lastChunk);
    int panel = lastPanel ? b.count() - 1 : 0;
    int chunk = lastChunk ? b.chunks().count() - 1 : 0;
    return new Spec(
        tiles.size(lastTile),
        k,
        b.columns().size(lastPanel),
        Layout.rows(b.factor().half, rowStride()),
        b.chunk(panel, chunk).layout(),
        summed ? Layout.rows(false, stride(b)) : Layout.rows(target().half, target().stride),
        !summed && target().bias,
        summed ? add : target().add);
  }

  /** Whether the result is the sum of several products, or wanted as sums. */
  boolean isSummed() {
    return summed;
  }

  /**
   * Cuts rows into tiles.
   *
   * @param rows how many there are
   * @param factor the numbers of products
   */
  static Pieces tiles(long rows, Factor factor) {
    long most = factor == Factor.JOINED ? JOINED_ROWS : ROWS;
    return Pieces.of(rows, Math.clamp(Math.ceilDiv(rows, TILES), LEAST_ROWS, most), MULTIPLE);
  }

  Panels matrix() {
    return b;
  }

  private long rowStride() {
    return direct ? b.chunks().length() : b.factor().side * b.chunks().size() + GAP;
  }

  /**
   * The rows of a tile as a factor: where they are, or copied.
   *
   * @param x {@code [rows, k]}
   * @param first row of the tile
   * @param last whether the tile is the last
   * @param scratch of the calling thread
   * @param slot for copied rows
   */
  long factor(CpuTensor x, long first, boolean last, Scratch scratch, int slot) {
    Pieces chunks = b.chunks();
    long from = x.address(first * chunks.length());
    if (direct) {
      return from;
    }
    long begin = scratch.beginProduct();
    long to = scratch.bytes(slot, chunks.count() * chunkBytes(last));
    for (int chunk = 0; chunk < chunks.count(); chunk++) {
      long columns = chunks.size(chunks.isLast(chunk));
      packing.rows(
          from + chunks.start(chunk) * Float.BYTES,
          chunks.length() * Float.BYTES,
          chunk(to, last, chunk),
          rowBytes(),
          packedPart(last, columns),
          tiles.size(last),
          columns);
    }
    scratch.endProduct(begin);
    return to;
  }

  /** Bytes between the parts of a number: in the next matrix, or further on in the row. */
  private long packedPart(boolean last, long columns) {
    return b.factor() == Factor.JOINED ? columns * b.factor().bytes() : partBytes(last);
  }

  private long rowBytes() {
    return rowStride() * b.factor().bytes();
  }

  private long chunkBytes(boolean last) {
    return direct ? b.chunks().size() * b.factor().bytes() : b.factor().parts * partBytes(last);
  }

  private long partBytes(boolean last) {
    return tiles.size(last) * rowBytes();
  }

  private long chunk(long a, boolean last, int chunk) {
    return a + chunk * chunkBytes(last);
  }

  /** Memory for one chunk of a tile's factor, to be filled. */
  long chunkRoom(Scratch scratch, int slot) {
    return scratch.bytes(slot, chunkBytes(false));
  }

  /**
   * Fills columns of some rows of one chunk of a factor.
   *
   * @param a address of the chunk
   * @param last whether the tile is the last
   * @param row the first
   * @param column the first within the chunk
   * @param from address of the rows: bfloat16 for {@link Factor#HALF}, otherwise float32
   * @param fromRowBytes bytes between them
   * @param rows how many
   * @param columns how many; all of the chunk where numbers are split
   */
  void fill(
      long a,
      boolean last,
      long row,
      long column,
      long from,
      long fromRowBytes,
      long rows,
      long columns) {
    filling.rows(
        from,
        fromRowBytes,
        a + row * rowBytes() + column * b.factor().bytes(),
        rowBytes(),
        packedPart(last, columns),
        rows,
        columns);
  }

  /** Elements between rows in scratch memory that hold a panel's columns. */
  static long stride(Panels b) {
    return Simd.padded(Math.toIntExact(b.columns().size())) + GAP;
  }

  /** Bytes between the rows of sums. */
  long sumsRowBytes() {
    return stride(b) * Float.BYTES;
  }

  /** Bytes of the sums of one tile and panel. */
  long sumsBytes() {
    return tiles.size() * sumsRowBytes();
  }

  /**
   * Multiplies with one panel.
   *
   * @param scratch of the calling thread
   * @param last whether the tile is the last
   * @param panel which
   * @param a address of the tile's factor
   * @return address of the sums, in scratch memory until the next call
   */
  long sums(Scratch scratch, boolean last, int panel, long a) {
    long sums = scratch.bytes(SUMS_SLOT, sumsBytes());
    for (int chunk = 0; chunk < b.chunks().count(); chunk++) {
      run(scratch, last, panel, chunk, chunk(a, last, chunk), sums);
    }
    return sums;
  }

  /**
   * Multiplies with one panel.
   *
   * @param scratch of the calling thread
   * @param last whether the tile is the last
   * @param panel which
   * @param a address of the tile's factor
   * @param bias address of the bias; 0 without one
   * @param c address of the result's first row of the tile
   */
  void run(Scratch scratch, boolean last, int panel, long a, long bias, long c) {
    if (summed) {
      write(scratch, sums(scratch, last, panel, a), last, panel, bias, c);
    } else {
      Product product = products[Product.index(last, b.columns().isLast(panel), false, false)];
      product.run(scratch, a, b.chunk(panel, 0).address(), bias(panel, bias), result(panel, c));
    }
  }

  private long bias(int panel, long bias) {
    return bias == 0 ? 0 : bias + b.columns().start(panel) * Float.BYTES;
  }

  private long result(int panel, long c) {
    return c + b.columns().start(panel) * (target().half ? Short.BYTES : Float.BYTES);
  }

  private Result target() {
    return Objects.requireNonNull(result, "only sums are wanted");
  }

  /** Bytes between rows of the result. */
  long resultRowBytes() {
    return target().stride * (target().half ? Short.BYTES : Float.BYTES);
  }

  /**
   * Multiplies one chunk of a factor with that of a panel.
   *
   * @param scratch of the calling thread
   * @param last whether the tile is the last
   * @param panel which
   * @param chunk which; the first one sets the sums, the others add to them
   * @param a address of that chunk
   * @param sums address of the sums
   */
  void run(Scratch scratch, boolean last, int panel, int chunk, long a, long sums) {
    Chunk right = b.chunk(panel, chunk);
    boolean lastPanel = b.columns().isLast(panel);
    boolean lastChunk = b.chunks().isLast(chunk);
    multiply(
        b.factor(),
        scratch,
        products[Product.index(last, lastPanel, lastChunk, chunk > 0)],
        products[Product.index(last, lastPanel, lastChunk, true)],
        a,
        partBytes(last),
        right.address(),
        right.part(),
        sums);
  }

  /**
   * Makes sums rows of the result; they are not defined afterwards.
   *
   * @param scratch of the calling thread
   * @param sums their address
   * @param last whether the tile is the last
   * @param panel which
   * @param bias address of the bias; 0 without one
   * @param c address of the result's first row of the tile
   */
  void write(Scratch scratch, long sums, boolean last, int panel, long bias, long c) {
    long begin = scratch.beginProduct();
    SumRows.write(
        sums,
        sumsRowBytes(),
        bias(panel, bias),
        result(panel, c),
        resultRowBytes(),
        target().half,
        target().add,
        tiles.size(last),
        b.columns().size(b.columns().isLast(panel)));
    scratch.endProduct(begin);
  }

  /**
   * C = A·B, or C += A·B, for all parts that count.
   *
   * @param factor how many parts there are
   * @param scratch of the calling thread
   * @param first the product that is computed first
   * @param more adds a product
   * @param a address of A
   * @param aPart bytes between parts of A
   * @param b address of B
   * @param bPart bytes between parts of B
   * @param c address of C
   */
  static void multiply(
      Factor factor,
      Scratch scratch,
      Product first,
      Product more,
      long a,
      long aPart,
      long b,
      long bPart,
      long c) {
    Product product = first;
    for (int right = factor.parts - 1; right >= 0; right--) {
      for (int left = factor.parts - 1 - right; left >= 0; left--) {
        product.run(scratch, a + left * aPart, b + right * bPart, 0, c);
        product = more;
      }
    }
  }
}
