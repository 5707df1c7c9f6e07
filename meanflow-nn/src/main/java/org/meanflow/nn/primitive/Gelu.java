package org.meanflow.nn.primitive;

import org.meanflow.nn.autodiff.Primitive;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;

/**
 * GELU, tanh approximation, elementwise, any shape (Hendrycks and Gimpel, arXiv 1606.08415).
 *
 * <p>y = ½x(1 + tanh(√(2/π)(x + 0.044715x³))).
 */
public record Gelu() implements Primitive.Elementwise {
  @Override
  public Saved forward(Kernels k, Tensor x, Tensor y, boolean keep) {
    return k.elementwise().gelu(x, y, keep);
  }

  @Override
  public void slope(Kernels k, Tensor x, Saved saved, Tensor d, Tensor y, boolean add) {
    k.elementwise().geluSlope(x, saved, d, y, add);
  }

  @Override
  public Storage storage() {
    return Storage.COMPACT;
  }
}
