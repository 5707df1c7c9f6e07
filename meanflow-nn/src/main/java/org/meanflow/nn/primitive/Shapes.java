package org.meanflow.nn.primitive;

import java.util.Arrays;
import java.util.List;

/** Checks on the shapes of a primitive's inputs. */
final class Shapes {
  private Shapes() {}

  static void check(boolean fits, String rule, List<long[]> inputs) {
    if (!fits) {
      throw new IllegalArgumentException(
          rule + ", got " + inputs.stream().map(Arrays::toString).toList());
    }
  }

  /** {@code shape} with another last extent. */
  static long[] withLast(long[] shape, long last) {
    long[] result = shape.clone();
    result[result.length - 1] = last;
    return result;
  }

  static long last(long[] shape) {
    return shape[shape.length - 1];
  }
}
