package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.all;
import static org.meanflow.nn.engine.cpu.Simd.load;
import static org.meanflow.nn.engine.cpu.Simd.store;

import jdk.incubator.vector.FloatVector;
import org.meanflow.nn.engine.Norm;

/**
 * One row of a normalisation: x̂ = (x − mean)·inverse, where inverse = 1/√(… + ε). Rows have zeros
 * behind their {@code width} elements up to whole vectors.
 */
final class NormRows {
  private NormRows() {}

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
        FloatVector m = all(mean);
        FloatVector squares = FloatVector.zero(Simd.FLOATS);
        for (int i = 0; i < padded; i += LANES) {
          FloatVector d = load(x, i).sub(m);
          squares = d.fma(d, squares);
        }
        double beyond = (padded - width) * (double) mean * mean; // from the zeros
        double sum = Simd.sum(squares) - beyond;
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
