package org.meanflow.nn.autodiff;

import java.util.Arrays;
import org.meanflow.core.random.RandomStream;

/** The law of the first values of a parameter. */
@FunctionalInterface
public interface Initializer {

  /**
   * Draws the first values of a parameter.
   *
   * @param shape extents of the parameter
   * @param random stream of this parameter alone
   * @return row-major values, as many as {@code shape} has elements
   */
  double[] values(long[] shape, RandomStream random);

  /** {@return a law that gives zeros} */
  static Initializer zeros() {
    return constant(0);
  }

  /**
   * All equal.
   *
   * @param value every value
   * @return the law
   */
  static Initializer constant(double value) {
    return (shape, random) -> {
      double[] values = new double[count(shape)];
      Arrays.fill(values, value);
      return values;
    };
  }

  /**
   * Normal with mean 0.
   *
   * @param std standard deviation
   * @return the law
   */
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
   *
   * @return the law
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
