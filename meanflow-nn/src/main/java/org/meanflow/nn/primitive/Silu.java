package org.meanflow.nn.primitive;

import org.meanflow.nn.autodiff.Primitive;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;

/** SiLU, y = x σ(x), elementwise, any shape. */
public record Silu() implements Primitive.Elementwise {
  @Override
  public Saved forward(Kernels k, Tensor x, Tensor y, boolean keep) {
    return k.elementwise().silu(x, y, keep);
  }

  @Override
  public void slope(Kernels k, Tensor x, Saved saved, Tensor d, Tensor y, boolean add) {
    k.elementwise().siluSlope(x, saved, d, y, add);
  }
}
