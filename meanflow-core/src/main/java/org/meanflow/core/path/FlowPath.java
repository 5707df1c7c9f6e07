package org.meanflow.core.path;

import java.util.Arrays;
import org.meanflow.core.batch.Batches;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * A path z_t = a(t)·x + b(t)·ε from data x to noise ε (arXiv 2505.13447, section 3). Time 0 is
 * data: a(0) = 1, b(0) = 0; time 1 is noise: a(1) = 0, b(1) = 1.
 *
 * <p>Its conditional velocity is v_t = a'(t)·x + b'(t)·ε, the derivative of z_t at fixed x and ε.
 */
public interface FlowPath {

  /** {@return the name under which {@link #named} finds this path} */
  String name();

  /**
   * The weight a(t) of the data.
   *
   * @param t time in [0, 1]
   * @return a(t)
   */
  double dataWeight(double t);

  /**
   * The weight b(t) of the noise.
   *
   * @param t time in [0, 1]
   * @return b(t)
   */
  double noiseWeight(double t);

  /**
   * The derivative of {@link #dataWeight}.
   *
   * @param t time in [0, 1]
   * @return a'(t)
   */
  double dataWeightRate(double t);

  /**
   * The derivative of {@link #noiseWeight}.
   *
   * @param t time in [0, 1]
   * @return b'(t)
   */
  double noiseWeightRate(double t);

  /**
   * The points z_t = a(t)·x + b(t)·ε.
   *
   * @param x data, shape {@code [batch, ...]}, float32 or float64; not changed
   * @param noise ε, shape and data type of {@code x}; not changed
   * @param t times in [0, 1], one for each sample
   * @return z, a new array of the shape and data type of {@code x}
   * @throws IllegalArgumentException if shapes, data types or lengths differ, or a time is outside
   *     [0, 1]
   */
  default INDArray interpolate(INDArray x, INDArray noise, double[] t) {
    requireMatching(x, noise, t);
    double[] a = new double[t.length];
    double[] b = new double[t.length];
    for (int i = 0; i < t.length; i++) {
      a[i] = dataWeight(t[i]);
      b[i] = noiseWeight(t[i]);
    }
    return combine(a, x, b, noise);
  }

  /**
   * The conditional velocities v_t = a'(t)·x + b'(t)·ε.
   *
   * @param x data, shape {@code [batch, ...]}, float32 or float64; not changed
   * @param noise ε, shape and data type of {@code x}; not changed
   * @param t times in [0, 1], one for each sample
   * @return v, a new array of the shape and data type of {@code x}
   * @throws IllegalArgumentException as {@link #interpolate}
   */
  default INDArray velocity(INDArray x, INDArray noise, double[] t) {
    requireMatching(x, noise, t);
    double[] a = new double[t.length];
    double[] b = new double[t.length];
    for (int i = 0; i < t.length; i++) {
      a[i] = dataWeightRate(t[i]);
      b[i] = noiseWeightRate(t[i]);
    }
    return combine(a, x, b, noise);
  }

  /**
   * The path of a name.
   *
   * @param name {@code "linear"} or {@code "cosine"}
   * @return the path
   * @throws IllegalArgumentException if no path has this name
   */
  static FlowPath named(String name) {
    return switch (name) {
      case LinearPath.NAME -> new LinearPath();
      case CosinePath.NAME -> new CosinePath();
      default ->
          throw new IllegalArgumentException(
              "path must be one of %s, %s, got %s"
                  .formatted(LinearPath.NAME, CosinePath.NAME, name));
    };
  }

  private static INDArray combine(double[] a, INDArray x, double[] b, INDArray noise) {
    return Batches.map(
        x,
        noise,
        (i, xs, es) -> {
          double data = a[i];
          double rest = b[i];
          for (int j = 0; j < xs.length; j++) {
            xs[j] = data * xs[j] + rest * es[j];
          }
        });
  }

  private static void requireMatching(INDArray x, INDArray noise, double[] t) {
    if (x.dataType() != DataType.FLOAT && x.dataType() != DataType.DOUBLE) {
      throw new IllegalArgumentException("x must be float32 or float64, got " + x.dataType());
    }
    if (x.rank() < 1 || x.isEmpty()) {
      throw new IllegalArgumentException("x must have shape [batch, ...], got " + describe(x));
    }
    if (!x.equalShapes(noise) || x.dataType() != noise.dataType()) {
      throw new IllegalArgumentException(
          "noise must have the shape and type of x, %s, got %s"
              .formatted(describe(x), describe(noise)));
    }
    if (t.length != x.size(0)) {
      throw new IllegalArgumentException(
          "t must have one time for each of %d samples, got %d".formatted(x.size(0), t.length));
    }
    for (int i = 0; i < t.length; i++) {
      if (!(t[i] >= 0 && t[i] <= 1)) {
        throw new IllegalArgumentException("t[%d] must be in [0, 1], got %s".formatted(i, t[i]));
      }
    }
  }

  private static String describe(INDArray array) {
    return array.dataType() + Arrays.toString(array.shape());
  }
}
