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
  static final int QUAD = 4;

  /** Floats that hold what is known of the rows of a block. */
  static final int STATISTICS = (4 + 2 * LANES) * BLOCK;

  // What is known, by row.
  private static final int MEAN = 0;
  private static final int INVERSE = BLOCK;
  private static final int SLOPE_MEAN = 2 * BLOCK;
  private static final int ALONG = 3 * BLOCK;
  private static final int SUMS = 4 * BLOCK;
  private static final int OTHER_SUMS = SUMS + BLOCK * LANES;

  /** Floats that stay in the first-level cache, with what is computed from them. */
  private static final int CACHED = 6 << 10;

  private NormRows() {}

  /** Rows of a block that are best worked on together, if that takes more than one loop. */
  static int rowsAtOnce(int padded) {
    int quads = CACHED / padded / QUAD;
    return Math.clamp(quads, 1, BLOCK / QUAD) * QUAD;
  }

  static float mean(long statistics, int row) {
    return Simd.get(statistics + (long) (MEAN + row) * Float.BYTES);
  }

  static float inverse(long statistics, int row) {
    return Simd.get(statistics + (long) (INVERSE + row) * Float.BYTES);
  }

  /** mean(x̂ ⊙ d). */
  static float along(long statistics, int row) {
    return Simd.get(statistics + (long) (ALONG + row) * Float.BYTES);
  }

  /** mean(d) for layer norm, 0 for others. */
  static float slopeMean(long statistics, int row) {
    return Simd.get(statistics + (long) (SLOPE_MEAN + row) * Float.BYTES);
  }

  /** Where the sums for {@link #along} are to be put, lane by lane. */
  static long alongSums(long statistics, int row) {
    return statistics + (long) (SUMS + row * LANES) * Float.BYTES;
  }

  /** Where the sums for {@link #slopeMean} are to be put, lane by lane. */
  static long meanSums(long statistics, int row) {
    return statistics + (long) (OTHER_SUMS + row * LANES) * Float.BYTES;
  }

  private static void set(long statistics, int index, double value) {
    Simd.set(statistics + (long) index * Float.BYTES, (float) value);
  }

  /** Mean and inverse of each row of a block; rows follow each other. */
  static void statistics(Norm norm, long x, int rows, int width, long statistics) {
    int padded = Simd.padded(width);
    long step = (long) padded * Float.BYTES;
    boolean layer = norm.kind() == Norm.Kind.LAYER;
    if (norm.kind() == Norm.Kind.NONE) {
      for (int row = 0; row < rows; row++) {
        set(statistics, MEAN + row, 0);
        set(statistics, INVERSE + row, 1);
      }
      return;
    }
    long last = x + (rows - 1) * step;
    if (layer) {
      for (int row = 0; row < rows; row += QUAD) {
        long a = x + row * step;
        long b = Math.min(a + step, last);
        long c = Math.min(b + step, last);
        sums(a, b, c, Math.min(c + step, last), padded, alongSums(statistics, row));
      }
    }
    for (int row = 0; row < rows; row++) {
      set(statistics, MEAN + row, layer ? folded(alongSums(statistics, row)) / width : 0);
    }
    for (int row = 0; row < rows; row += QUAD) {
      long a = x + row * step;
      long b = Math.min(a + step, last);
      long c = Math.min(b + step, last);
      squares(a, b, c, Math.min(c + step, last), padded, statistics, row);
    }
    for (int row = 0; row < rows; row++) {
      double mean = mean(statistics, row);
      double beyond = (padded - width) * mean * mean; // from the zeros
      double sum = folded(alongSums(statistics, row)) - beyond;
      set(statistics, INVERSE + row, 1 / Math.sqrt(sum / width + norm.epsilon()));
    }
  }

  /** Σ x of four rows, lane by lane. */
  private static void sums(long a, long b, long c, long d, int length, long to) {
    FloatVector sumA = FloatVector.zero(Simd.FLOATS);
    FloatVector sumB = FloatVector.zero(Simd.FLOATS);
    FloatVector sumC = FloatVector.zero(Simd.FLOATS);
    FloatVector sumD = FloatVector.zero(Simd.FLOATS);
    for (int i = 0; i < length; i += LANES) {
      sumA = sumA.add(load(a, i));
      sumB = sumB.add(load(b, i));
      sumC = sumC.add(load(c, i));
      sumD = sumD.add(load(d, i));
    }
    store(sumA, to);
    store(sumB, to + Simd.BYTES);
    store(sumC, to + 2L * Simd.BYTES);
    store(sumD, to + 3L * Simd.BYTES);
  }

  /** Σ (x − mean)² of four rows, lane by lane. */
  private static void squares(
      long a, long b, long c, long d, int length, long statistics, int row) {
    FloatVector meanA = all(mean(statistics, row));
    FloatVector meanB = all(mean(statistics, row + 1));
    FloatVector meanC = all(mean(statistics, row + 2));
    FloatVector meanD = all(mean(statistics, row + 3));
    FloatVector sumA = FloatVector.zero(Simd.FLOATS);
    FloatVector sumB = FloatVector.zero(Simd.FLOATS);
    FloatVector sumC = FloatVector.zero(Simd.FLOATS);
    FloatVector sumD = FloatVector.zero(Simd.FLOATS);
    for (int i = 0; i < length; i += LANES) {
      FloatVector x = load(a, i).sub(meanA);
      sumA = x.fma(x, sumA);
      x = load(b, i).sub(meanB);
      sumB = x.fma(x, sumB);
      x = load(c, i).sub(meanC);
      sumC = x.fma(x, sumC);
      x = load(d, i).sub(meanD);
      sumD = x.fma(x, sumD);
    }
    long to = alongSums(statistics, row);
    store(sumA, to);
    store(sumB, to + Simd.BYTES);
    store(sumC, to + 2L * Simd.BYTES);
    store(sumD, to + 3L * Simd.BYTES);
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

  /** Σ of the lanes that were put to an address. */
  private static float folded(long sums) {
    return Simd.sum(load(sums));
  }

  /** {@link #along} and {@link #slopeMean} from the sums of the products with x̂ and of d. */
  static void slopes(Norm norm, int rows, int width, long statistics) {
    boolean none = norm.kind() == Norm.Kind.NONE;
    boolean layer = norm.kind() == Norm.Kind.LAYER;
    for (int row = 0; row < rows; row++) {
      float along = folded(alongSums(statistics, row)) / width;
      float mean = folded(meanSums(statistics, row)) / width;
      set(statistics, ALONG + row, none ? 0 : along);
      set(statistics, SLOPE_MEAN + row, layer ? mean : 0);
    }
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
