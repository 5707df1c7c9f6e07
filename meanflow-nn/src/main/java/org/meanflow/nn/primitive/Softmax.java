package org.meanflow.nn.primitive;

import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.autodiff.Primitive;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;

/** Softmax over the last dimension, any shape. */
public record Softmax() implements Primitive {
  @Override
  public long[] shape(List<long[]> inputs) {
    return inputs.getFirst();
  }

  @Override
  public Saved forward(Kernels k, Tensor[] x, Tensor y, boolean keep) {
    k.softmax(x[0], y);
    return Saved.NOTHING;
  }

  @Override
  public void jvp(Kernels k, Evaluation e, @Nullable Tensor[] dx, Tensor dy) {
    k.softmaxSlope(e.y(), Objects.requireNonNull(dx[0]), dy, false);
  }

  @Override
  public void vjp(Kernels k, Evaluation e, Tensor gy, @Nullable Cotangent[] gx) {
    Cotangent g = gx[0];
    if (g != null) {
      k.softmaxSlope(e.y(), gy, g.target(), g.add());
    }
  }
}
