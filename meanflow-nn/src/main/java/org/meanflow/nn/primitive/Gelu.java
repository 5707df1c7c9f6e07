package org.meanflow.nn.primitive;

import org.meanflow.nn.autodiff.Primitive;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Tensor;

/**
 * GELU, tanh approximation, elementwise, any shape (Hendrycks and Gimpel, arXiv 1606.08415).
 *
 * <p>y = ½x(1 + tanh(√(2/π)(x + 0.044715x³))).
 */
public record Gelu() implements Primitive.Elementwise {
  @Override
  public void forward(Kernels k, Tensor x, Tensor y) {
    k.gelu(x, y);
  }

  @Override
  public void slope(Kernels k, Tensor x, Tensor d, Tensor y, boolean add) {
    k.geluSlope(x, d, y, add);
  }
}
