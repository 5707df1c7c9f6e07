package org.meanflow.core.oracle;

import static org.meanflow.core.Closeness.assertClose;

import org.meanflow.core.field.DifferentiableVelocity;
import org.meanflow.core.field.Tangent;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;

/** Points (z, r, t) at which fields are examined. */
record TestPoints(INDArray z, double[] r, double[] t) {

  /**
   * Seeded points; in turn r = t, (r, t) = (0, 1), r = 0, t − r = 1e-9, r = t = 0, and any r ≤ t.
   */
  static TestPoints random(int batch, int coordinates) {
    RandomStream random = new RandomStream(20250519, 0, Purpose.TIME);
    double[] r = new double[batch];
    double[] t = new double[batch];
    for (int i = 0; i < batch; i++) {
      double a = random.nextUniform();
      double b = random.nextUniform();
      t[i] = Math.max(a, b);
      r[i] = Math.min(a, b);
      switch (i % 8) {
        case 0 -> r[i] = t[i];
        case 1 -> {
          t[i] = 1;
          r[i] = 0;
        }
        case 2 -> r[i] = 0;
        case 3 -> r[i] = Math.max(0, t[i] - 1e-9);
        case 4 -> {
          t[i] = i % 16 == 4 ? 0 : t[i];
          r[i] = 0;
        }
        default -> {}
      }
    }
    INDArray z =
        new RandomStream(20250519, 0, Purpose.NOISE)
            .normalArray(DataType.DOUBLE, batch, coordinates)
            .muli(1.5);
    return new TestPoints(z, r, t);
  }

  /** The same with room to move all times by {@code h} with 0 ≤ r ≤ t ≤ 1. */
  TestPoints inside(double h) {
    double[] newR = r.clone();
    double[] newT = t.clone();
    for (int i = 0; i < t.length; i++) {
      newR[i] = 2 * h + (1 - 8 * h) * r[i];
      newT[i] = 4 * h + (1 - 8 * h) * t[i];
    }
    return new TestPoints(z, newR, newT);
  }

  /** Along a random ż with (ṙ, ṫ) = (0, 0), (1, 0), (0, 1) and (0.3, −0.7). */
  void assertDerivativeMatchesCentralDifferences(
      DifferentiableVelocity field, double h, double tolerance) {
    INDArray dz =
        new RandomStream(20250519, 1, Purpose.NOISE).normalArray(DataType.DOUBLE, z.shape());
    double[][] directions = {{0, 0}, {1, 0}, {0, 1}, {0.3, -0.7}};
    for (double[] direction : directions) {
      double dr = direction[0];
      double dt = direction[1];
      INDArray jvp = field.derivative(z, r, t, null, new Tangent(dz, dr, dt)).jvp();
      INDArray after = field.u(z.add(dz.mul(h)), moved(r, h * dr), moved(t, h * dt), null);
      INDArray before = field.u(z.sub(dz.mul(h)), moved(r, -h * dr), moved(t, -h * dt), null);
      assertClose(jvp, after.sub(before).div(2 * h), tolerance);
    }
  }

  private static double[] moved(double[] times, double by) {
    double[] moved = times.clone();
    for (int i = 0; i < moved.length; i++) {
      moved[i] += by;
    }
    return moved;
  }
}
