package org.meanflow.nn.engine.cpu;

import org.meanflow.nn.engine.cpu.Panels.Chunk;
import org.meanflow.nn.engine.cpu.Product.Layout;
import org.meanflow.nn.engine.cpu.Product.Spec;

/**
 * Rows in tiles that stay in a core's cache, times the panels of a matrix, chunk by chunk of its
 * rows.
 */
final class TileProduct {
  /** Rows of a tile: fewer read the matrix too often, more leave the second-level cache. */
  private static final long ROWS = 256;

  /** The same for wide rows of {@link Factor#HALF}. */
  private static final long WIDE_HALF_ROWS = 128;

  private static final long WIDE = 1024;

  /** There are at least so many tiles, to be shared out, unless they became too small. */
  private static final long TILES = 4;

  private static final long LEAST_ROWS = 64;
  private static final long MULTIPLE = 16;

  /** Rows that are copied are this much longer, so that they don't share sets of the cache. */
  private static final long GAP = 32;

  private static final int ROWS_SLOT = 5;

  private final Panels b;
  private final Pieces tiles;
  private final Result result;
  private final boolean direct;
  private final FactorPacking packing;
  private final Product[] products = new Product[16];

  /**
   * What becomes of the products.
   *
   * @param half whether they are bfloat16
   * @param stride elements between their rows
   * @param bias whether a row is added to every row
   * @param add whether they are added to what is there
   */
  record Result(boolean half, long stride, boolean bias, boolean add) {}

  /** Writes the rows of a tile. */
  @FunctionalInterface
  interface Rows {

    /**
     * Writes.
     *
     * @param to address of the first row
     * @param rowBytes bytes between rows
     */
    void write(long to, long rowBytes);
  }

  /**
   * A product of tiles.
   *
   * @param all compiles
   * @param b the matrix
   * @param tiles the rows
   * @param halfSource whether the left-hand factor is bfloat16
   * @param result what becomes of the products
   */
  TileProduct(Products all, Panels b, Pieces tiles, boolean halfSource, Result result) {
    this.b = b;
    this.tiles = tiles;
    this.result = result;
    direct = b.factor() == Factor.FLOAT || (b.factor() == Factor.HALF && halfSource);
    packing = FactorPacking.of(b.factor(), false);
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

  private Spec spec(boolean lastTile, boolean lastPanel, boolean lastChunk, boolean first) {
    long k = b.factor().side * b.chunks().size(lastChunk);
    int panel = lastPanel ? b.count() - 1 : 0;
    int chunk = lastChunk ? b.chunks().count() - 1 : 0;
    return new Spec(
        tiles.size(lastTile),
        k,
        b.columns().size(lastPanel),
        Layout.rows(b.factor().half, rowStride()),
        b.chunk(panel, chunk).layout(),
        Layout.rows(result.half, result.stride),
        first && result.bias,
        !first || result.add);
  }

  /**
   * Cuts rows into tiles.
   *
   * @param rows how many there are
   * @param widest the longer side of the weight
   * @param factor the numbers of products
   */
  static Pieces tiles(long rows, long widest, Factor factor) {
    long most = factor == Factor.HALF && widest > WIDE ? WIDE_HALF_ROWS : ROWS;
    return Pieces.of(rows, Math.clamp(Math.ceilDiv(rows, TILES), LEAST_ROWS, most), MULTIPLE);
  }

  Panels matrix() {
    return b;
  }

  /** Whether rows are used where they are. */
  boolean isDirect() {
    return direct;
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
    long to = room(x, first, last, scratch, slot);
    for (int chunk = 0; chunk < b.chunks().count(); chunk++) {
      copy(x, first, to, last, chunk);
    }
    return to;
  }

  /**
   * Copies one chunk of a factor, unless it is used where it is.
   *
   * @param x {@code [rows, k]}
   * @param first row of the tile
   * @param a address of the factor
   * @param last whether the tile is the last
   * @param chunk which
   */
  void copy(CpuTensor x, long first, long a, boolean last, int chunk) {
    if (direct) {
      return;
    }
    long k = b.chunks().length();
    packing.rows(
        x.address(first * k + b.chunks().start(chunk)),
        k * Float.BYTES,
        address(a, last, chunk, 0),
        rowBytes(),
        packedPart(last, b.chunks().size(b.chunks().isLast(chunk))),
        tiles.size(last),
        b.chunks().size(b.chunks().isLast(chunk)));
  }

  /** Bytes between the parts of a number: in the next matrix, or further on in the row. */
  private long packedPart(boolean last, long columns) {
    return b.factor() == Factor.JOINED ? columns * b.factor().bytes() : partBytes(last);
  }

  /** Where a tile of x becomes a factor, once all its chunks are copied. */
  long room(CpuTensor x, long first, boolean last, Scratch scratch, int slot) {
    return direct ? x.address(first * b.chunks().length()) : room(last, scratch, slot);
  }

  /** Memory for the copied rows of a tile. */
  long room(boolean last, Scratch scratch, int slot) {
    long bytes = direct ? tiles.size(last) * rowBytes() : b.chunks().count() * chunkBytes(last);
    return scratch.bytes(slot, bytes);
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

  private long address(long a, boolean last, int chunk, long row) {
    return a + chunk * chunkBytes(last) + row * rowBytes();
  }

  /**
   * Fills one chunk of a factor.
   *
   * @param a address of the factor
   * @param last whether the tile is the last
   * @param chunk which
   * @param scratch of the calling thread
   * @param rows writes its rows, bfloat16 for {@link Factor#HALF}, otherwise float32
   */
  void fill(long a, boolean last, int chunk, Scratch scratch, Rows rows) {
    long to = address(a, last, chunk, 0);
    if (!b.factor().isSplit()) {
      rows.write(to, rowBytes());
      return;
    }
    long length = b.chunks().size(b.chunks().isLast(chunk));
    long bytes = length * Float.BYTES;
    long staged = scratch.bytes(ROWS_SLOT, tiles.size(last) * bytes);
    rows.write(staged, bytes);
    packing.rows(staged, bytes, to, rowBytes(), packedPart(last, length), tiles.size(last), length);
  }

  /** Multiplies with all panels. */
  void run(Scratch scratch, boolean last, long a, long bias, long c) {
    for (int panel = 0; panel < b.count(); panel++) {
      run(scratch, last, panel, a, bias, c);
    }
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
    for (int chunk = 0; chunk < b.chunks().count(); chunk++) {
      run(scratch, last, panel, chunk, a, bias, c);
    }
  }

  /**
   * Multiplies one chunk of a factor with that of a panel.
   *
   * @param scratch of the calling thread
   * @param last whether the tile is the last
   * @param panel which
   * @param chunk which; the first one sets the result, the others add to it
   * @param a address of the tile's factor
   * @param bias address of the bias; 0 without one
   * @param c address of the result's first row of the tile
   */
  void run(Scratch scratch, boolean last, int panel, int chunk, long a, long bias, long c) {
    Chunk right = b.chunk(panel, chunk);
    boolean lastPanel = b.columns().isLast(panel);
    boolean lastChunk = b.chunks().isLast(chunk);
    Product first = products[Product.index(last, lastPanel, lastChunk, chunk == 0)];
    Product more = products[Product.index(last, lastPanel, lastChunk, false)];
    long left = address(a, last, chunk, 0);
    long from = b.columns().start(panel);
    long to = c + from * (result.half ? Short.BYTES : Float.BYTES);
    long row = bias == 0 ? 0 : bias + from * Float.BYTES;
    multiply(
        b.factor(),
        scratch,
        first,
        more,
        left,
        partBytes(last),
        right.address(),
        right.part(),
        row,
        to);
  }

  /**
   * C = A·B + bias, or C += A·B, for all parts that count.
   *
   * @param factor how many parts there are
   * @param scratch of the calling thread
   * @param first the product that is computed first
   * @param more adds a product
   * @param a address of A
   * @param aPart bytes between parts of A
   * @param b address of B
   * @param bPart bytes between parts of B
   * @param bias address of the bias; 0 without one
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
      long bias,
      long c) {
    Product product = first;
    for (int right = factor.parts - 1; right >= 0; right--) {
      for (int left = factor.parts - 1 - right; left >= 0; left--) {
        product.run(scratch, a + left * aPart, b + right * bPart, bias, c);
        product = more;
      }
    }
  }
}
