package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;

import jdk.incubator.vector.FloatVector;

/**
 * GELU and its slope for rows, to the precision of float32 ({@link FloatGelu}) or bfloat16 ({@link
 * HalfGelu}). Whole vectors are written.
 */
final class GeluRows {
  private static final OutlinedLoop BIASED =
      new OutlinedLoop(
          (x, rowBytes, b, rows, columns, _, _, _) -> biasedRows(x, rowBytes, b, rows, columns));
  private static final OutlinedLoop BIASED_KEPT =
      new OutlinedLoop(
          (x, xRowBytes, b, h, hRowBytes, rows, columns, _) ->
              biasedKeptRows(x, xRowBytes, b, h, hRowBytes, rows, columns));
  private static final OutlinedLoop KEPT =
      new OutlinedLoop(
          (x, xRowBytes, h, hRowBytes, rows, columns, _, _) ->
              keptRows(x, xRowBytes, h, hRowBytes, rows, columns));
  private static final OutlinedLoop SLOPES =
      new OutlinedLoop(
          (h, hRowBytes, d, dRowBytes, rows, columns, half, _) ->
              slopeRows(h, hRowBytes, d, dRowBytes, rows, columns, half));
  private static final OutlinedLoop BACKWARD =
      new OutlinedLoop(
          (h, hRowBytes, d, dRowBytes, rows, columns, _, _) ->
              backwardRows(h, hRowBytes, d, dRowBytes, rows, columns));
  private static final OutlinedLoop HALF_VALUES =
      new OutlinedLoop(
          (x, rowBytes, rows, columns, _, _, _, _) -> halfValueRows(x, rowBytes, rows, columns));

  private GeluRows() {}

  static void values(long x, long y, int length) {
    for (int i = 0; i < length; i += LANES) {
      store(FloatGelu.value(load(x, i)), y, i);
    }
  }

  static void halfValues(long x, long y, int length) {
    for (int i = 0; i < length; i += LANES) {
      Simd.storeResult(HalfGelu.value(load(x, i, true)), y, i, true);
    }
  }

  static void slopes(long x, long d, long y, int length) {
    for (int i = 0; i < length; i += LANES) {
      store(FloatGelu.slope(load(x, i)).mul(load(d, i)), y, i);
    }
  }

  static void halfSlopes(long x, long d, long y, int length) {
    for (int i = 0; i < length; i += LANES) {
      Simd.storeResult(HalfGelu.slope(load(x, i, true)).mul(load(d, i, true)), y, i, true);
    }
  }

  /**
   * h = x + b, x = GELU(x + b), all float32.
   *
   * @param x address of the first row
   * @param xRowBytes bytes between rows of x
   * @param b address of a row
   * @param h address of the first row; 0 if h is not wanted
   * @param hRowBytes bytes between rows of h
   * @param rows how many
   * @param columns how many
   */
  static void biased(
      long x, long xRowBytes, long b, long h, long hRowBytes, long rows, long columns) {
    if (h == 0) {
      BIASED.run(x, xRowBytes, b, rows, columns);
    } else {
      BIASED_KEPT.run(x, xRowBytes, b, h, hRowBytes, rows, columns);
    }
  }

  private static void biasedRows(long x, long rowBytes, long b, long rows, long columns) {
    for (long row = 0; row < rows; row++) {
      long at = x + row * rowBytes;
      for (int i = 0; i < columns; i += LANES) {
        store(FloatGelu.value(load(at, i).add(load(b, i))), at, i);
      }
    }
  }

  // Rows of h follow each other: the last vector of one must not reach into the next. There is one
  // GELU in a loop, for the compiler may not inline a second one.

  private static void biasedKeptRows(
      long x, long xRowBytes, long b, long h, long hRowBytes, long rows, long columns) {
    for (long row = 0; row < rows; row++) {
      long from = x + row * xRowBytes;
      long to = h + row * hRowBytes;
      for (int i = 0; i < columns; i += LANES) {
        FloatVector sum = load(from, i).add(load(b, i));
        storeWithin(sum, to, i, columns);
        store(FloatGelu.value(sum), from, i);
      }
    }
  }

  /** Stores a vector of a row of {@code columns} floats, up to its end. */
  private static void storeWithin(FloatVector x, long row, int i, long columns) {
    if (i + LANES <= columns) {
      store(x, row, i);
    } else {
      Simd.storeFirst(x, row, i, (int) columns, false);
    }
  }

  /** h = x, x = GELU(x), all bfloat16; otherwise as {@link #biased}. */
  static void kept(long x, long xRowBytes, long h, long hRowBytes, long rows, long columns) {
    KEPT.run(x, xRowBytes, h, hRowBytes, rows, columns);
  }

  private static void keptRows(
      long x, long xRowBytes, long h, long hRowBytes, long rows, long columns) {
    for (long row = 0; row < rows; row++) {
      long from = x + row * xRowBytes;
      if (h != 0) {
        Simd.copyHalves(from, h + row * hRowBytes, (int) columns);
      }
      halfValues(from, from, (int) columns);
    }
  }

  /**
   * d = GELU′(h) ⊙ d.
   *
   * @param half whether both are bfloat16; otherwise float32
   * @param h address of the first row
   * @param hRowBytes bytes between rows of h
   * @param d address of the first row
   * @param dRowBytes bytes between rows of d
   * @param rows how many
   * @param columns how many
   */
  static void slopes(
      boolean half, long h, long hRowBytes, long d, long dRowBytes, long rows, long columns) {
    SLOPES.run(h, hRowBytes, d, dRowBytes, rows, columns, half ? 1 : 0);
  }

  private static void slopeRows(
      long h, long hRowBytes, long d, long dRowBytes, long rows, long columns, long half) {
    for (long row = 0; row < rows; row++) {
      long from = h + row * hRowBytes;
      long to = d + row * dRowBytes;
      if (half == 1) {
        halfSlopes(from, to, to, (int) columns);
      } else {
        slopes(from, to, to, (int) columns);
      }
    }
  }

  /**
   * d = GELU′(h) ⊙ d, h = GELU(h).
   *
   * @param half whether both are bfloat16; otherwise float32
   * @param h address of the first row
   * @param hRowBytes bytes between rows of h
   * @param d address of the first row
   * @param dRowBytes bytes between rows of d
   * @param rows how many
   * @param columns how many
   */
  static void backward(
      boolean half, long h, long hRowBytes, long d, long dRowBytes, long rows, long columns) {
    if (half) {
      slopes(true, h, hRowBytes, d, dRowBytes, rows, columns);
      HALF_VALUES.run(h, hRowBytes, rows, columns);
    } else {
      BACKWARD.run(h, hRowBytes, d, dRowBytes, rows, columns);
    }
  }

  private static void backwardRows(
      long h, long hRowBytes, long d, long dRowBytes, long rows, long columns) {
    for (long row = 0; row < rows; row++) {
      long x = h + row * hRowBytes;
      long to = d + row * dRowBytes;
      for (int i = 0; i < columns; i += LANES) {
        FloatVector at = load(x, i);
        FloatVector size = FloatGelu.size(at);
        FloatVector s = FloatGelu.sigmoid(size);
        store(FloatGelu.slope(at, size, s).mul(load(to, i)), to, i);
        storeWithin(FloatGelu.value(at, size, s), x, i, columns);
      }
    }
  }

  /** x = GELU(x), bfloat16. */
  private static void halfValueRows(long x, long rowBytes, long rows, long columns) {
    int whole = (int) columns / LANES * LANES;
    for (long row = 0; row < rows; row++) {
      long at = x + row * rowBytes;
      halfValues(at, at, whole);
      if (whole < columns) {
        FloatVector last = HalfGelu.value(load(at, whole, true));
        Simd.storeFirst(last, at, whole, (int) columns, true);
      }
    }
  }
}
