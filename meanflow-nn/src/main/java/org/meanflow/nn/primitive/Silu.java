package org.meanflow.nn.primitive;

import org.meanflow.nn.autodiff.Primitive;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Tensor;

/** SiLU, y = x σ(x), elementwise, any shape. */
public record Silu() implements Primitive.Elementwise {
  @Override
  public void forward(Kernels k, Tensor x, Tensor y) {
    k.silu(x, y);
  }

  @Override
  public void slope(Kernels k, Tensor x, Tensor d, Tensor y, boolean add) {
    k.siluSlope(x, d, y, add);
  }
}
