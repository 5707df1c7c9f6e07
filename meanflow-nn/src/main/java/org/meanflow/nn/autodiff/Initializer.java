package org.meanflow.nn.autodiff;

import java.util.Arrays;
import org.meanflow.core.random.RandomStream;

/** The law of the first values of a parameter. */
@FunctionalInterface
public interface Initializer {

  /** Row-major values of a parameter of {@code shape}. */
  double[] values(long[] shape, RandomStream random);

  /** All zero. */
  static Initializer zeros() {
    return constant(0);
  }

  /** All equal. */
  static Initializer constant(double value) {
    return (shape, random) -> {
      double[] values = new double[count(shape)];
      Arrays.fill(values, value);
      return values;
    };
  }

  /** Normal with mean 0. */
  static Initializer normal(double std) {
    return (shape, random) -> {
      double[] values = random.normals(count(shape));
      Arrays.setAll(values, i -> std * values[i]);
      return values;
    };
  }

  /**
   * Uniform on ±√(6 / (in + out)) for a weight {@code [out, in…]}, all extents but the first
   * counted as {@code in} (Glorot and Bengio, AISTATS 2010).
   */
  static Initializer xavierUniform() {
    return (shape, random) -> {
      int count = count(shape);
      double bound = Math.sqrt(6.0 / (shape[0] + (double) count / shape[0]));
      double[] values = random.uniforms(count);
      Arrays.setAll(values, i -> bound * (2 * values[i] - 1));
      return values;
    };
  }

  private static int count(long[] shape) {
    return Math.toIntExact(Arrays.stream(shape).reduce(1, Math::multiplyExact));
  }
}
