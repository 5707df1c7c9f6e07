package org.meanflow.nn.weights;

import java.util.Arrays;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * Where and what a tensor of a safetensors file is.
 *
 * @param name its name
 * @param dtype its data type
 * @param shape its dimensions, each ≥ 0; empty for a scalar
 * @param begin first byte, counted from the start of the data section
 * @param end byte after the last one; {@code end − begin} is elements × bytes of an element
 */
public record TensorInfo(String name, Dtype dtype, long[] shape, long begin, long end) {
  private static final long MAX_ELEMENTS = 1L << 59;

  /** Checks that shape, data type and offsets agree. */
  public TensorInfo {
    shape = shape.clone();
    long bytes = elements(shape) * dtype.bytes();
    if (!(begin >= 0 && end >= begin)) {
      throw new IllegalArgumentException(
          "data_offsets must satisfy 0 <= begin <= end, got [" + begin + ", " + end + "]");
    }
    if (end - begin != bytes) {
      throw new IllegalArgumentException(
          "data_offsets must span the %d bytes of %s %s, got [%d, %d], which is %d bytes"
              .formatted(bytes, dtype, Arrays.toString(shape), begin, end, end - begin));
    }
  }

  /** {@return its dimensions, each ≥ 0, empty for a scalar; a copy} */
  @Override
  public long[] shape() {
    return shape.clone();
  }

  /** {@return the number of elements: the product of the dimensions, 1 for a scalar} */
  public long elements() {
    return (end - begin) / dtype.bytes();
  }

  /** The product of dimensions, refused where a count of bytes could overflow. */
  private static long elements(long[] shape) {
    long elements = 1;
    for (long dimension : shape) {
      if (dimension < 0) {
        throw new IllegalArgumentException(
            "shape must have dimensions >= 0, got " + Arrays.toString(shape));
      }
      if (dimension > 0 && elements > MAX_ELEMENTS / dimension) {
        throw new IllegalArgumentException(
            "shape must have at most 2^59 elements, got " + Arrays.toString(shape));
      }
      elements *= dimension;
    }
    return elements;
  }

  @Override
  public boolean equals(@Nullable Object other) {
    return other instanceof TensorInfo that
        && name.equals(that.name)
        && dtype == that.dtype
        && Arrays.equals(shape, that.shape)
        && begin == that.begin
        && end == that.end;
  }

  @Override
  public int hashCode() {
    return Objects.hash(name, dtype, Arrays.hashCode(shape), begin, end);
  }

  @Override
  public String toString() {
    return "%s %s %s [%d, %d]".formatted(name, dtype, Arrays.toString(shape), begin, end);
  }
}
