package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.load;

import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorOperators;

/**
 * Copies matrices into the layouts in which products read bfloat16 factors fastest. The left-hand
 * factor lies in rows. The right-hand one lies in blocks of {@link #BLOCK} columns, and in each of
 * these in pairs of rows, the two numbers of a column beside each other; oneDNN's own reorder takes
 * twice as long.
 *
 * <p>The matrices that are read are float32 or bfloat16, as they are or transposed; of {@link
 * Factor#SPLIT} a matrix is written for each of the three parts, of {@link Factor#JOINED} one with
 * all of them.
 */
final class FactorPacking {
  /** Columns of a block; sides of a matrix are multiples of this. */
  static final int BLOCK = OneDnn.hasAmx() ? 32 : 64;

  private static final long BLOCK_ROW_BYTES = (long) BLOCK * Short.BYTES;

  /** What is packed is written through memory of this slot. */
  private static final int SQUARES_SLOT = 1;

  private static final FactorPacking PARTS = new FactorPacking(Factor.SPLIT, false);
  private static final FactorPacking JOINED = new FactorPacking(Factor.JOINED, false);
  private static final FactorPacking FLOATS = new FactorPacking(Factor.HALF, false);
  private static final FactorPacking COPIES = new FactorPacking(Factor.FLOAT, false);
  private static final FactorPacking HALVES = new FactorPacking(Factor.HALF, true);

  private final Factor factor;
  private final boolean half;
  private final OutlinedLoop pairs =
      new OutlinedLoop(
          (from, stride, rows, columns, to, part, _, _) ->
              writePairs(from, stride, rows, columns, to, part));
  private final OutlinedLoop transposedPairs =
      new OutlinedLoop(
          (from, stride, rows, columns, to, part, squares, _) ->
              writeTransposedPairs(from, stride, rows, columns, to, part, squares));
  private final OutlinedLoop transposedRows = new OutlinedLoop(this::writeTransposedRows);
  private final OutlinedLoop rows;

  private FactorPacking(Factor factor, boolean half) {
    this.factor = factor;
    this.half = half;
    rows =
        new OutlinedLoop(
            switch (factor) {
              case JOINED ->
                  (x, xRow, y, yRow, part, n, k, _) -> joinRows(x, xRow, y, yRow, part, n, k);
              case SPLIT ->
                  (x, xRow, y, yRow, part, n, k, _) -> splitRows(x, xRow, y, yRow, part, n, k);
              case HALF ->
                  half
                      ? (x, xRow, y, yRow, _, n, k, _) -> copyHalves(x, xRow, y, yRow, n, k)
                      : (x, xRow, y, yRow, _, n, k, _) -> narrowRows(x, xRow, y, yRow, n, k);
              case FLOAT ->
                  (x, xRow, y, yRow, _, n, k, _) -> SumRows.writeFloat(x, xRow, 0, y, yRow, n, k);
            });
  }

  /**
   * A kind of copy.
   *
   * @param factor what is written; of {@link Factor#FLOAT} only rows
   * @param half whether bfloat16 numbers are read; not where they are split
   */
  static FactorPacking of(Factor factor, boolean half) {
    return switch (factor) {
      case SPLIT -> PARTS;
      case JOINED -> JOINED;
      case HALF -> half ? HALVES : FLOATS;
      case FLOAT -> COPIES;
    };
  }

  /** Plain copies of rows. */
  static FactorPacking copies(boolean half) {
    return half ? HALVES : COPIES;
  }

  /** Bytes between the parts of a right-hand {@link Factor#JOINED}. */
  static long joinedPart(long rows) {
    return rows * BLOCK_ROW_BYTES;
  }

  /** Whether sides of a matrix are whole multiples of what is copied at once. */
  static boolean fits(long rows, long columns) {
    return rows % BLOCK == 0 && columns % BLOCK == 0 && BLOCK % (2 * LANES) == 0;
  }

  /**
   * Whether a layout of a right-hand factor is the one that {@link #pairs} writes: found by packing
   * numbers both ways.
   *
   * @param rows of the matrix
   * @param columns of the matrix
   * @param layout that oneDNN chose
   * @param reorder into that layout, from rows of {@code columns} floats
   * @param memory for the trial
   */
  static boolean isPairs(
      long rows,
      long columns,
      Product.Layout layout,
      Reorder reorder,
      Scratch scratch,
      Memory memory) {
    if (!fits(rows, columns) || layout.bytes() != rows * columns * Short.BYTES) {
      return false;
    }
    Memory.Block source = memory.take(rows * columns * Float.BYTES);
    Memory.Block expected = memory.take(layout.bytes());
    Memory.Block actual = memory.take(layout.bytes());
    for (long i = 0; i < rows * columns; i++) {
      // Neighbours in every direction differ, in bits that bfloat16 keeps.
      float number = (i % columns * 37 + i / columns * 101) % 251;
      Simd.set(source.address + i * Float.BYTES, number);
    }
    reorder.run(scratch, source.address, expected.address);
    of(Factor.HALF, false).pairs(source.address, columns, rows, columns, actual.address, 0);
    boolean same =
        MemorySegment.mismatch(
                Simd.ALL,
                expected.address,
                expected.address + layout.bytes(),
                Simd.ALL,
                actual.address,
                actual.address + layout.bytes())
            < 0;
    memory.giveBack(source);
    memory.giveBack(expected);
    memory.giveBack(actual);
    return same;
  }

  /**
   * A right-hand factor of a matrix.
   *
   * @param from address of the first row
   * @param stride elements between rows
   * @param rows how many
   * @param columns how many
   * @param to address of the result
   * @param part bytes between the results of two parts
   */
  void pairs(long from, long stride, long rows, long columns, long to, long part) {
    pairs.run(from, stride, rows, columns, to, part);
  }

  private void writePairs(long from, long stride, long rows, long columns, long to, long part) {
    for (long row = 0; row < rows; row += 2) {
      for (long column = 0; column < columns; column += BLOCK) {
        pair(
            from + (row * stride + column) * bytes(),
            stride * bytes(),
            (long) LANES * bytes(),
            BLOCK / LANES,
            to + (column / BLOCK * factor.side * rows + row) * BLOCK_ROW_BYTES,
            part);
      }
    }
    repeatParts(rows, columns, to);
  }

  /** Of {@link Factor#JOINED}, below the three parts in each block: the first two, the first. */
  private void repeatParts(long rows, long columns, long to) {
    if (factor != Factor.JOINED) {
      return;
    }
    long part = joinedPart(rows);
    for (long block = 0; block < columns / BLOCK; block++) {
      long parts = to + block * factor.side * part;
      MemorySegment.copy(Simd.ALL, parts, Simd.ALL, parts + 3 * part, 2 * part);
      MemorySegment.copy(Simd.ALL, parts, Simd.ALL, parts + 5 * part, part);
    }
  }

  /**
   * A right-hand factor of the transpose of a float32 matrix.
   *
   * @param from address of the first row of the matrix, a column of the factor
   * @param stride elements between rows of the matrix
   * @param rows of the factor
   * @param columns of the factor
   * @param to address of the result
   * @param part bytes between the results of two parts
   * @param scratch of the calling thread
   */
  void transposedPairs(
      long from, long stride, long rows, long columns, long to, long part, Scratch scratch) {
    transposedPairs.run(from, stride, rows, columns, to, part, squares(scratch));
  }

  private void writeTransposedPairs(
      long from, long stride, long rows, long columns, long to, long part, long squares) {
    for (long column = 0; column < columns; column += LANES) {
      long block =
          to + column / BLOCK * factor.side * rows * BLOCK_ROW_BYTES + column % BLOCK * Float.BYTES;
      for (long row = 0; row < rows; row += 2L * LANES) {
        square(from + (column * stride + row) * Float.BYTES, stride * Float.BYTES, squares);
        transpose(squares, block + row * BLOCK_ROW_BYTES, 2 * BLOCK_ROW_BYTES, part);
      }
    }
    repeatParts(rows, columns, to);
  }

  /**
   * A left-hand factor of the transpose of a matrix.
   *
   * @param from address of the first row of the matrix, a column of the factor
   * @param stride elements between rows of the matrix
   * @param rows of the factor
   * @param columns of the factor
   * @param to address of the result
   * @param rowBytes bytes between rows of the factor
   * @param part bytes between the results of two parts
   * @param scratch of the calling thread
   */
  void transposedRows(
      long from,
      long stride,
      long rows,
      long columns,
      long to,
      long rowBytes,
      long part,
      Scratch scratch) {
    transposedRows.run(from, stride, rows, columns, to, rowBytes, part, squares(scratch));
  }

  private void writeTransposedRows(
      long from,
      long stride,
      long rows,
      long columns,
      long to,
      long rowBytes,
      long part,
      long squares) {
    for (long column = 0; column < columns; column += 2L * LANES) {
      for (long row = 0; row < rows; row += LANES) {
        pair(
            from + (column * stride + row) * bytes(),
            stride * bytes(),
            2 * stride * bytes(),
            LANES,
            squares,
            Transposition.BYTES);
        transpose(squares, to + row * rowBytes + column * Short.BYTES, rowBytes, part);
      }
    }
  }

  private int bytes() {
    return half ? Short.BYTES : Float.BYTES;
  }

  /** Memory for the squares of all parts, and for one more. */
  private long squares(Scratch scratch) {
    return scratch.bytes(SQUARES_SLOT, (parts() + 1L) * Transposition.BYTES);
  }

  private int parts() {
    return factor.isSplit() ? Factor.SPLIT.parts : 1;
  }

  /** Rows of a float32 matrix into the squares, each part once. */
  private void square(long from, long rowBytes, long to) {
    if (factor.isSplit()) {
      splitRows(from, rowBytes, to, Simd.BYTES, Transposition.BYTES, LANES, 2L * LANES);
    } else {
      narrowRows(from, rowBytes, to, Simd.BYTES, LANES, 2L * LANES);
    }
  }

  /** The squares of all parts. */
  private void transpose(long squares, long to, long rowBytes, long part) {
    int parts = parts();
    long spare = squares + parts * Transposition.BYTES;
    for (int i = 0; i < parts; i++) {
      Transposition.run(squares + i * Transposition.BYTES, spare, to + i * part, rowBytes);
    }
  }

  /**
   * A left-hand factor of a matrix; of bfloat16 for {@link Factor#HALF} only.
   *
   * @param from address of the first row
   * @param fromRowBytes bytes between rows
   * @param to address of the result
   * @param toRowBytes bytes between rows of the result
   * @param part bytes between the results of two parts
   * @param rows how many
   * @param columns how many, a multiple of two vectors
   */
  void rows(
      long from, long fromRowBytes, long to, long toRowBytes, long part, long rows, long columns) {
    this.rows.run(from, fromRowBytes, to, toRowBytes, part, rows, columns);
  }

  // A method for each kind of rows: with several in one, the compiler inlines no more of them than
  // it has room for.

  private static void copyHalves(
      long from, long fromRowBytes, long to, long toRowBytes, long rows, long columns) {
    for (long row = 0; row < rows; row++) {
      Simd.copyHalves(from + row * fromRowBytes, to + row * toRowBytes, (int) columns);
    }
  }

  private static void narrowRows(
      long from, long fromRowBytes, long to, long toRowBytes, long rows, long columns) {
    for (long row = 0; row < rows; row++) {
      Simd.narrow(from + row * fromRowBytes, to + row * toRowBytes, (int) columns);
    }
  }

  private static void splitRows(
      long from, long fromRowBytes, long to, long toRowBytes, long part, long rows, long columns) {
    for (long row = 0; row < rows; row++) {
      split(from + row * fromRowBytes, to + row * toRowBytes, part, (int) columns);
    }
  }

  private static void joinRows(
      long from, long fromRowBytes, long to, long toRowBytes, long part, long rows, long columns) {
    for (long row = 0; row < rows; row++) {
      join(from + row * fromRowBytes, to + row * toRowBytes, part, (int) columns);
    }
  }

  private static void split(long from, long to, long part, int length) {
    for (int i = 0; i < length; i += 2 * LANES) {
      long target = to + (long) i * Short.BYTES;
      FloatVector x = load(from, i);
      FloatVector y = load(from, i + LANES);
      FloatVector a = Simd.leading(x);
      FloatVector b = Simd.leading(y);
      Simd.storeLeading(a, b, target);
      x = x.sub(a);
      y = y.sub(b);
      a = Simd.leading(x);
      b = Simd.leading(y);
      Simd.storeLeading(a, b, target + part);
      Simd.storeLeading(x.sub(a), y.sub(b), target + 2 * part);
    }
  }

  private static void join(long from, long to, long part, int length) {
    for (int i = 0; i < length; i += 2 * LANES) {
      long target = to + (long) i * Short.BYTES;
      FloatVector x = load(from, i);
      FloatVector y = load(from, i + LANES);
      FloatVector a = Simd.leading(x);
      FloatVector b = Simd.leading(y);
      Simd.storeLeading(a, b, target + 2 * part);
      Simd.storeLeading(a, b, target + 4 * part);
      Simd.storeLeading(a, b, target + 5 * part);
      x = x.sub(a);
      y = y.sub(b);
      a = Simd.leading(x);
      b = Simd.leading(y);
      Simd.storeLeading(a, b, target + part);
      Simd.storeLeading(a, b, target + 3 * part);
      Simd.storeLeading(x.sub(a), y.sub(b), target);
    }
  }

  /**
   * Vectors of one row with those of the next: pairs, the number of the first row in front.
   *
   * @param first address of the first row
   * @param rowBytes bytes to the next row
   * @param step bytes between vectors of the first row, or of rows to be paired
   * @param vectors how many
   * @param to address of the result
   * @param part bytes between the results of two parts
   */
  private void pair(long first, long rowBytes, long step, int vectors, long to, long part) {
    if (factor.isSplit()) {
      pairSplit(first, rowBytes, step, vectors, to, part);
    } else if (half) {
      pairHalves(first, rowBytes, step, vectors, to);
    } else {
      pairFloats(first, rowBytes, step, vectors, to);
    }
  }

  private static void pairSplit(
      long first, long rowBytes, long step, int vectors, long to, long part) {
    for (int i = 0; i < vectors; i++) {
      long target = to + (long) i * Simd.BYTES;
      FloatVector x = load(first + i * step);
      FloatVector y = load(first + i * step + rowBytes);
      FloatVector a = Simd.leading(x);
      FloatVector b = Simd.leading(y);
      Simd.storeLeadingPairs(a, b, target);
      x = x.sub(a);
      y = y.sub(b);
      a = Simd.leading(x);
      b = Simd.leading(y);
      Simd.storeLeadingPairs(a, b, target + part);
      Simd.storeLeadingPairs(x.sub(a), y.sub(b), target + 2 * part);
    }
  }

  private static void pairFloats(long first, long rowBytes, long step, int vectors, long to) {
    for (int i = 0; i < vectors; i++) {
      IntVector low = Simd.halfBits(load(first + i * step));
      IntVector high = Simd.halfBits(load(first + i * step + rowBytes));
      high = high.lanewise(VectorOperators.LSHL, Short.SIZE);
      Simd.store(low.or(high).reinterpretAsFloats(), to, i * LANES);
    }
  }

  private static void pairHalves(long first, long rowBytes, long step, int vectors, long to) {
    for (int i = 0; i < vectors; i++) {
      IntVector low = Simd.bits(first + i * step);
      IntVector high = Simd.bits(first + i * step + rowBytes);
      high = high.lanewise(VectorOperators.LSHL, Short.SIZE);
      Simd.store(low.or(high).reinterpretAsFloats(), to, i * LANES);
    }
  }
}
