package org.meanflow.core;

import java.util.Arrays;
import org.nd4j.linalg.api.ndarray.INDArray;

/** Comparisons that fail on NaN. */
public final class Closeness {
  private Closeness() {}

  public static void assertClose(double actual, double expected, double tolerance) {
    assertClose(new double[] {actual}, new double[] {expected}, tolerance);
  }

  /** Fails unless |actual − expected| ≤ tolerance in each element. */
  public static void assertClose(double[] actual, double[] expected, double tolerance) {
    if (actual.length != expected.length) {
      throw new AssertionError("%d values, expected %d".formatted(actual.length, expected.length));
    }
    for (int i = 0; i < actual.length; i++) {
      if (!(Math.abs(actual[i] - expected[i]) <= tolerance)) {
        throw new AssertionError(
            "[%d] is %s, expected %s ± %s".formatted(i, actual[i], expected[i], tolerance));
      }
    }
  }

  /** As for arrays of numbers; shapes must be equal too. */
  public static void assertClose(INDArray actual, INDArray expected, double tolerance) {
    if (!Arrays.equals(actual.shape(), expected.shape())) {
      throw new AssertionError(
          "shape is %s, expected %s"
              .formatted(Arrays.toString(actual.shape()), Arrays.toString(expected.shape())));
    }
    assertClose(values(actual), values(expected), tolerance);
  }

  /** The elements in row-major order. */
  public static double[] values(INDArray array) {
    return array.isEmpty() ? new double[0] : array.dup('c').data().asDouble();
  }
}
