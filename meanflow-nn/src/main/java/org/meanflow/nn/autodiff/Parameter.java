package org.meanflow.nn.autodiff;

import org.meanflow.nn.engine.Tensor;

/**
 * A parameter of a network: its name, shape and place in the flat buffers of a {@link
 * ParameterStore}.
 *
 * @param name name as in a PyTorch state dict
 * @param shape extents; weights are {@code [out, in]}
 * @param offset position of its first element in the buffer
 * @param initializer law of its first values
 */
public record Parameter(String name, long[] shape, long offset, Initializer initializer) {
  /** Parameters start at multiples of this many elements, for aligned vector access. */
  private static final int ALIGNMENT = 16;

  /** Where the next one starts: after the last element and padding. */
  long end() {
    return offset + Math.ceilDiv(Tensor.size(shape), ALIGNMENT) * ALIGNMENT;
  }
}
