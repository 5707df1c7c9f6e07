package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;

/**
 * What becomes of sums of products: rows of float32 in scratch memory that can be read and written
 * in whole vectors. Best done for a {@link #STRIP} after the other, which stays in the first-level
 * cache.
 */
final class SumRows {
  /** Rows that are worked on at once. */
  static final long STRIP = 8;

  private static final OutlinedLoop ADD_UP =
      new OutlinedLoop(
          (x, rowBytes, rows, columns, to, half, _, _) ->
              addUp(x, rowBytes, rows, columns, to, half));
  private static final OutlinedLoop ADD_ROWS =
      new OutlinedLoop(
          (sums, rowBytes, from, fromRowBytes, rows, columns, half, _) ->
              addRows(sums, rowBytes, from, fromRowBytes, rows, columns, half));
  private static final OutlinedLoop WRITE =
      new OutlinedLoop(
          (sums, rowBytes, bias, to, toRowBytes, rows, columns, _) ->
              writeFloat(sums, rowBytes, bias, to, toRowBytes, rows, columns));
  private static final OutlinedLoop WRITE_HALF =
      new OutlinedLoop(
          (sums, rowBytes, bias, to, toRowBytes, rows, columns, _) ->
              writeHalf(sums, rowBytes, bias, to, toRowBytes, rows, columns));

  private SumRows() {}

  /** A row of float32 += the sums of each column, one row after the other. */
  static void addUp(boolean half, long x, long rowBytes, long rows, long columns, long row) {
    ADD_UP.run(x, rowBytes, rows, columns, row, half ? 1 : 0);
  }

  private static void addUp(long x, long rowBytes, long rows, long columns, long to, long half) {
    for (long row = 0; row < rows; row++) {
      long from = x + row * rowBytes;
      for (int i = 0; i < columns; i += LANES) {
        store(load(to, i).add(load(from, i, half == 1)), to, i);
      }
    }
  }

  /**
   * Rows of a matrix = sums + bias, or += sums + bias; the sums are not defined afterwards.
   *
   * @param sums address of the first row
   * @param rowBytes bytes between rows
   * @param bias address of a row that is added to every row, readable in whole vectors; 0 without
   * @param to address of the result's first row
   * @param toRowBytes bytes between its rows
   * @param half whether it is bfloat16
   * @param add whether to add
   * @param rows how many
   * @param columns how many
   */
  static void write(
      long sums,
      long rowBytes,
      long bias,
      long to,
      long toRowBytes,
      boolean half,
      boolean add,
      long rows,
      long columns) {
    for (long row = 0; row < rows; row += STRIP) {
      long strip = Math.min(STRIP, rows - row);
      long from = sums + row * rowBytes;
      long target = to + row * toRowBytes;
      if (add) {
        ADD_ROWS.run(from, rowBytes, target, toRowBytes, strip, columns, half ? 1 : 0);
      }
      (half ? WRITE_HALF : WRITE).run(from, rowBytes, bias, target, toRowBytes, strip, columns);
    }
  }

  private static void addRows(
      long sums, long rowBytes, long from, long fromRowBytes, long rows, long columns, long half) {
    for (long row = 0; row < rows; row++) {
      long sum = sums + row * rowBytes;
      for (int i = 0; i < columns; i += LANES) {
        store(load(sum, i).add(load(from + row * fromRowBytes, i, half == 1)), sum, i);
      }
    }
  }

  private static void writeHalf(
      long sums, long rowBytes, long bias, long to, long toRowBytes, long rows, long columns) {
    for (long row = 0; row < rows; row++) {
      long sum = sums + row * rowBytes;
      if (bias != 0) {
        Simd.addTo(bias, sum, Simd.padded((int) columns));
      }
      Simd.narrow(sum, to + row * toRowBytes, (int) columns);
    }
  }

  /** Rows of float32 = sums + bias. */
  static void writeFloat(
      long sums, long rowBytes, long bias, long to, long toRowBytes, long rows, long columns) {
    int whole = (int) (columns / LANES * LANES);
    for (long row = 0; row < rows; row++) {
      long sum = sums + row * rowBytes;
      long target = to + row * toRowBytes;
      if (bias == 0) {
        for (int i = 0; i < whole; i += LANES) {
          store(load(sum, i), target, i);
        }
      } else {
        for (int i = 0; i < whole; i += LANES) {
          store(load(sum, i).add(load(bias, i)), target, i);
        }
      }
      for (int i = whole; i < columns; i++) {
        float x = Simd.get(sum, i);
        Simd.set(target, i, bias == 0 ? x : x + Simd.get(bias, i)); // a copy keeps −0
      }
    }
  }
}
