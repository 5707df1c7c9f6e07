package org.meanflow.core.oracle;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;
import org.meanflow.core.field.Derivative;
import org.meanflow.core.field.DifferentiableVelocity;
import org.meanflow.core.field.Tangent;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/**
 * A field whose coordinates do not interact, computed on the host in float64: reads arrays, checks
 * them, and leaves one coordinate at one point to the subclass. Labels are ignored.
 */
abstract class ElementwiseField implements DifferentiableVelocity {

  /**
   * u and its derivative at one coordinate of one sample.
   *
   * @param coordinate index of the coordinate in its sample, row-major
   */
  abstract Dual u(int coordinate, Dual z, Dual r, Dual t);

  /** Refuses samples of a size this field is not defined for. */
  abstract void requireCoordinates(int count);

  @Override
  public INDArray u(INDArray z, double[] r, double[] t, int @Nullable [] labels) {
    return evaluate(z, r, t, new double[0], 0, 0).u();
  }

  @Override
  public Derivative derivative(
      INDArray z, double[] r, double[] t, int @Nullable [] labels, Tangent tangent) {
    long[] shape = z.shape();
    shape[0] = tangent.rows();
    if (tangent.rows() > z.size(0) || !Arrays.equals(tangent.z().shape(), shape)) {
      throw new IllegalArgumentException(
          "tangent.z must cover the first samples of z, shape %s, got %s"
              .formatted(Arrays.toString(z.shape()), Arrays.toString(tangent.z().shape())));
    }
    return evaluate(z, r, t, doubles(tangent.z()), tangent.r(), tangent.t());
  }

  private Derivative evaluate(
      INDArray z, double[] r, double[] t, double[] dz, double dr, double dt) {
    int batch = requireBatch(z, r, t);
    double[] points = doubles(z);
    int coordinates = points.length / batch;
    requireCoordinates(coordinates);
    double[] u = new double[points.length];
    double[] jvp = new double[dz.length];
    for (int i = 0; i < points.length; i++) {
      int sample = i / coordinates;
      boolean covered = i < dz.length;
      Dual result =
          u(
              i % coordinates,
              new Dual(points[i], covered ? dz[i] : 0),
              new Dual(r[sample], covered ? dr : 0),
              new Dual(t[sample], covered ? dt : 0));
      u[i] = result.value();
      if (covered) {
        jvp[i] = result.tangent();
      }
    }
    long[] jvpShape = z.shape();
    jvpShape[0] = dz.length / coordinates;
    return new Derivative(array(u, z.dataType(), z.shape()), array(jvp, z.dataType(), jvpShape));
  }

  private static int requireBatch(INDArray z, double[] r, double[] t) {
    if (z.rank() < 1 || z.isEmpty()) {
      throw new IllegalArgumentException(
          "z must have shape [batch, ...], got " + Arrays.toString(z.shape()));
    }
    if (r.length != z.size(0) || t.length != z.size(0)) {
      throw new IllegalArgumentException(
          "r and t must have one time for each of %d samples, got %d and %d"
              .formatted(z.size(0), r.length, t.length));
    }
    for (int i = 0; i < t.length; i++) {
      if (!(r[i] >= 0 && r[i] <= t[i] && t[i] <= 1)) {
        throw new IllegalArgumentException(
            "r[%d], t[%d] must satisfy 0 <= r <= t <= 1, got %s, %s".formatted(i, i, r[i], t[i]));
      }
    }
    return t.length;
  }

  private static double[] doubles(INDArray array) {
    return array.isEmpty() ? new double[0] : array.dup('c').data().asDouble();
  }

  private static INDArray array(double[] values, DataType type, long[] shape) {
    return values.length == 0
        ? Nd4j.create(type, shape)
        : Nd4j.createFromArray(values).castTo(type).reshape(shape);
  }
}
