package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;

import jdk.incubator.vector.FloatVector;

/**
 * GELU and its slope for whole rows, float32 ({@link FloatGelu}) or bfloat16 ({@link HalfGelu}).
 */
final class GeluRows {
  private static final OutlinedLoop VALUES = new OutlinedLoop(GeluRows::valueRows);
  private static final OutlinedLoop SLOPES = new OutlinedLoop(GeluRows::slopeRows);

  private GeluRows() {}

  static void values(long x, long y, int length) {
    for (int i = 0; i < length; i += LANES) {
      store(FloatGelu.value(load(x, i)), y, i);
    }
  }

  /**
   * y = GELU(x) for rows of a matrix, all bfloat16 or all float32; whole vectors are written.
   *
   * @param half whether they are bfloat16
   * @param x address of the first row
   * @param xRowBytes bytes between rows of x
   * @param y address of the result
   * @param yRowBytes bytes between rows of y
   * @param rows how many
   * @param length of a row
   */
  static void values(
      boolean half, long x, long xRowBytes, long y, long yRowBytes, long rows, long length) {
    boolean dense = isDense(half, length, xRowBytes, yRowBytes);
    VALUES.run(
        x,
        xRowBytes,
        y,
        yRowBytes,
        dense ? 1 : rows,
        dense ? rows * length : length,
        half ? 1 : 0,
        0);
  }

  /**
   * Whether rows follow each other: then they are one, and no row's end is written over the next.
   */
  private static boolean isDense(boolean half, long length, long xRowBytes, long yRowBytes) {
    long bytes = length * (half ? Short.BYTES : Float.BYTES);
    return xRowBytes == bytes && yRowBytes == bytes;
  }

  private static void valueRows(
      long x, long xRowBytes, long y, long yRowBytes, long rows, long length, long half, long no) {
    for (long row = 0; row < rows; row++) {
      if (half == 1) {
        halfValues(x + row * xRowBytes, y + row * yRowBytes, (int) length);
      } else {
        values(x + row * xRowBytes, y + row * yRowBytes, (int) length);
      }
    }
  }

  /** y = GELU′(x) ⊙ d, with d in rows like those of x; otherwise as {@code values}. */
  static void slopes(
      boolean half,
      long x,
      long d,
      long xRowBytes,
      long y,
      long yRowBytes,
      long rows,
      long length) {
    boolean dense = isDense(half, length, xRowBytes, yRowBytes);
    SLOPES.run(
        x,
        d,
        xRowBytes,
        y,
        yRowBytes,
        dense ? 1 : rows,
        dense ? rows * length : length,
        half ? 1 : 0);
  }

  private static void slopeRows(
      long x, long d, long xRowBytes, long y, long yRowBytes, long rows, long length, long half) {
    for (long row = 0; row < rows; row++) {
      long place = row * xRowBytes;
      if (half == 1) {
        halfSlopes(x + place, d + place, y + row * yRowBytes, (int) length);
      } else {
        slopes(x + place, d + place, y + row * yRowBytes, (int) length);
      }
    }
  }

  static void halfValues(long x, long y, int length) {
    for (int i = 0; i < length; i += LANES) {
      Simd.storeResult(HalfGelu.value(Simd.load(x, i, true)), y, i, true);
    }
  }

  static void slopes(long x, long d, long y, int length) {
    for (int i = 0; i < length; i += LANES) {
      store(FloatGelu.slope(load(x, i)).mul(load(d, i)), y, i);
    }
  }

  static void halfSlopes(long x, long d, long y, int length) {
    for (int i = 0; i < length; i += LANES) {
      FloatVector slope = HalfGelu.slope(Simd.load(x, i, true));
      Simd.storeResult(slope.mul(Simd.load(d, i, true)), y, i, true);
    }
  }
}
