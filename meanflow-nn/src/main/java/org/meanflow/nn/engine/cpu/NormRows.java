package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.all;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;

import jdk.incubator.vector.FloatVector;
import org.meanflow.nn.engine.Norm;

/**
 * Normalisation of rows: x̂ = (x − mean)·inverse, where inverse = 1/√(… + ε). Rows have zeros
 * behind their {@code width} elements up to whole vectors.
 *
 * <p>A row by itself is a long chain of dependent operations. Rows of a block are independent: each
 * step is a loop over all of them, and so many are computed at once.
 */
final class NormRows {
  /** Most rows in a block. */
  static final int BLOCK = 64;

  /**
   * Rows that one vector loop covers: rows are short, and entering a loop takes as long as some
   * vectors. Behind the last row of a block its last one is taken again.
   */
  private static final int QUAD = 4;

  /** Floats that stay in the first-level cache, with what is computed from them. */
  private static final int CACHED = 6 << 10;

  /** Floats that hold what is known of the rows of a block. */
  static final int STATISTICS = 3 * LANES * BLOCK;

  // What is known of a row: four numbers, then two vectors of sums.
  private static final int MEAN = 0;
  private static final int INVERSE = 1;
  private static final int ALONG = 2;
  private static final int SLOPE_MEAN = 3;
  private static final int ALONG_SUMS = LANES;
  private static final int MEAN_SUMS = 2 * LANES;

  private static final OutlinedLoop SUMS =
      new OutlinedLoop(
          (x, rows, padded, statistics, _, _, _, _) -> sums(x, rows, padded, statistics));
  private static final OutlinedLoop SQUARES =
      new OutlinedLoop(
          (x, rows, padded, statistics, _, _, _, _) -> squares(x, rows, padded, statistics));
  private static final OutlinedLoop FOLD =
      new OutlinedLoop(
          (statistics, rows, sums, to, _, _, _, _) -> fold(statistics, rows, sums, to));

  private NormRows() {}

  /** Rows of a block that are best worked on together, if that takes more than one loop. */
  static int rowsAtOnce(int padded) {
    int quads = CACHED / padded / QUAD;
    return Math.clamp(quads, 1, BLOCK / QUAD) * QUAD;
  }

  /** What is known of one row of a block. */
  static long known(long statistics, long row) {
    return statistics + row * 3 * Simd.BYTES;
  }

  static float mean(long known) {
    return Simd.get(known, MEAN);
  }

  static float inverse(long known) {
    return Simd.get(known, INVERSE);
  }

  /** mean(x̂ ⊙ d). */
  static float along(long known) {
    return Simd.get(known, ALONG);
  }

  /** mean(d) for layer norm, 0 for others. */
  static float slopeMean(long known) {
    return Simd.get(known, SLOPE_MEAN);
  }

  /** Takes the sums for {@link #along} and {@link #slopeMean}, lane by lane. */
  static void setSlopeSums(FloatVector along, FloatVector mean, long known) {
    store(along, known, ALONG_SUMS);
    store(mean, known, MEAN_SUMS);
  }

  /** Mean and inverse of each row of a block; rows follow each other. */
  static void statistics(Norm norm, long x, int rows, int width, long statistics) {
    boolean none = norm.kind() == Norm.Kind.NONE;
    boolean layer = norm.kind() == Norm.Kind.LAYER;
    int padded = Simd.padded(width);
    if (layer) {
      SUMS.run(x, rows, padded, statistics);
      FOLD.run(statistics, rows, ALONG_SUMS, MEAN);
    }
    for (int row = 0; row < rows; row++) {
      long known = known(statistics, row);
      Simd.set(known, MEAN, layer ? mean(known) / width : 0);
    }
    if (!none) {
      SQUARES.run(x, rows, padded, statistics);
      FOLD.run(statistics, rows, ALONG_SUMS, INVERSE);
    }
    for (int row = 0; row < rows; row++) {
      long known = known(statistics, row);
      double mean = mean(known);
      double beyond = (padded - width) * mean * mean; // from the zeros
      double square = (inverse(known) - beyond) / width;
      Simd.set(known, INVERSE, none ? 1 : (float) (1 / Math.sqrt(square + norm.epsilon())));
    }
  }

  /** Σ x of rows, lane by lane. */
  private static void sums(long x, long rows, long padded, long statistics) {
    long step = padded * Float.BYTES;
    long last = x + (rows - 1) * step;
    for (long row = 0; row < rows; row += QUAD) {
      long a = x + row * step;
      long b = Math.min(a + step, last);
      long c = Math.min(b + step, last);
      long d = Math.min(c + step, last);
      FloatVector sumA = FloatVector.zero(Simd.FLOATS);
      FloatVector sumB = FloatVector.zero(Simd.FLOATS);
      FloatVector sumC = FloatVector.zero(Simd.FLOATS);
      FloatVector sumD = FloatVector.zero(Simd.FLOATS);
      for (int i = 0; i < padded; i += LANES) {
        sumA = sumA.add(load(a, i));
        sumB = sumB.add(load(b, i));
        sumC = sumC.add(load(c, i));
        sumD = sumD.add(load(d, i));
      }
      store(sumA, known(statistics, row), ALONG_SUMS);
      store(sumB, known(statistics, row + 1), ALONG_SUMS);
      store(sumC, known(statistics, row + 2), ALONG_SUMS);
      store(sumD, known(statistics, row + 3), ALONG_SUMS);
    }
  }

  /** Σ (x − mean)² of rows, lane by lane. */
  private static void squares(long x, long rows, long padded, long statistics) {
    long step = padded * Float.BYTES;
    long last = x + (rows - 1) * step;
    for (long row = 0; row < rows; row += QUAD) {
      long a = x + row * step;
      long b = Math.min(a + step, last);
      long c = Math.min(b + step, last);
      long d = Math.min(c + step, last);
      FloatVector meanA = all(mean(known(statistics, row)));
      FloatVector meanB = all(mean(known(statistics, row + 1)));
      FloatVector meanC = all(mean(known(statistics, row + 2)));
      FloatVector meanD = all(mean(known(statistics, row + 3)));
      FloatVector sumA = FloatVector.zero(Simd.FLOATS);
      FloatVector sumB = FloatVector.zero(Simd.FLOATS);
      FloatVector sumC = FloatVector.zero(Simd.FLOATS);
      FloatVector sumD = FloatVector.zero(Simd.FLOATS);
      for (int i = 0; i < padded; i += LANES) {
        FloatVector v = load(a, i).sub(meanA);
        sumA = v.fma(v, sumA);
        v = load(b, i).sub(meanB);
        sumB = v.fma(v, sumB);
        v = load(c, i).sub(meanC);
        sumC = v.fma(v, sumC);
        v = load(d, i).sub(meanD);
        sumD = v.fma(v, sumD);
      }
      store(sumA, known(statistics, row), ALONG_SUMS);
      store(sumB, known(statistics, row + 1), ALONG_SUMS);
      store(sumC, known(statistics, row + 2), ALONG_SUMS);
      store(sumD, known(statistics, row + 3), ALONG_SUMS);
    }
  }

  /** A number of each row = Σ of the lanes of one of its sums. */
  private static void fold(long statistics, long rows, long sums, long to) {
    for (long row = 0; row < rows; row++) {
      long known = known(statistics, row);
      Simd.set(known, (int) to, Simd.sum(load(known, (int) sums)));
    }
  }

  /** {@link #along} and {@link #slopeMean} from the sums of the products with x̂ and of d. */
  static void slopes(Norm norm, int rows, int width, long statistics) {
    boolean none = norm.kind() == Norm.Kind.NONE;
    boolean layer = norm.kind() == Norm.Kind.LAYER;
    FOLD.run(statistics, rows, ALONG_SUMS, ALONG);
    FOLD.run(statistics, rows, MEAN_SUMS, SLOPE_MEAN);
    for (int row = 0; row < rows; row++) {
      long known = known(statistics, row);
      Simd.set(known, ALONG, none ? 0 : along(known) / width);
      Simd.set(known, SLOPE_MEAN, layer ? slopeMean(known) / width : 0);
    }
  }

  private static float squares(long x, float mean, int length) {
    FloatVector m = all(mean);
    FloatVector sum = FloatVector.zero(Simd.FLOATS);
    for (int i = 0; i < length; i += LANES) {
      FloatVector d = load(x, i).sub(m);
      sum = d.fma(d, sum);
    }
    return Simd.sum(sum);
  }

  /**
   * x̂ of a row.
   *
   * @param x the row
   * @param xHat the result, zeros behind the end; may be {@code x}
   * @param width its elements
   * @return inverse; 1 for no normalisation
   */
  static float normalise(Norm norm, long x, long xHat, int width) {
    float mean = 0;
    float inverse = 1;
    int padded = Simd.padded(width);
    switch (norm.kind()) {
      case NONE -> {}
      case RMS -> {
        double square = Simd.dot(x, x, padded) / (double) width;
        inverse = (float) (1 / Math.sqrt(square + norm.epsilon()));
      }
      case LAYER -> {
        mean = Simd.sum(x, padded) / width;
        double beyond = (padded - width) * (double) mean * mean; // from the zeros
        double sum = squares(x, mean, padded) - beyond;
        inverse = (float) (1 / Math.sqrt(sum / width + norm.epsilon()));
      }
    }
    FloatVector m = all(mean);
    FloatVector scale = all(inverse);
    for (int i = 0; i < padded; i += LANES) {
      store(load(x, i).sub(m).mul(scale), xHat, i);
    }
    for (int i = width; i < padded; i++) {
      Simd.set(xHat + (long) i * Float.BYTES, 0);
    }
    return inverse;
  }

  /**
   * The derivative of x̂ applied to {@code d}: inverse·(d − x̂·mean(x̂ ⊙ d)), for layer norm also
   * minus mean(d). The map is symmetric, so it serves tangents and cotangents.
   *
   * @param result may be {@code d}; what is behind its end is undefined
   */
  static void slope(Norm norm, long xHat, float inverse, long d, long result, int width) {
    int padded = Simd.padded(width);
    boolean none = norm.kind() == Norm.Kind.NONE;
    float along = none ? 0 : Simd.dot(xHat, d, padded) / width;
    float mean = norm.kind() == Norm.Kind.LAYER ? Simd.sum(d, padded) / width : 0;
    FloatVector a = all(-along);
    FloatVector m = all(mean);
    FloatVector scale = all(none ? 1 : inverse);
    for (int i = 0; i < padded; i += LANES) {
      store(load(xHat, i).fma(a, load(d, i).sub(m)).mul(scale), result, i);
    }
  }

  /** result = x ⊙ gain. */
  static void multiply(long x, long gain, long result, int width) {
    for (int i = 0; i < width; i += LANES) {
      store(load(x, i).mul(load(gain, i)), result, i);
    }
  }

  /** sum += x ⊙ y. */
  static void addProduct(long x, long y, long sum, int width) {
    for (int i = 0; i < width; i += LANES) {
      store(load(x, i).fma(load(y, i), load(sum, i)), sum, i);
    }
  }
}
