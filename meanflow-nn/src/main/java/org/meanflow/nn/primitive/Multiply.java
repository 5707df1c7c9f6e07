package org.meanflow.nn.primitive;

import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.autodiff.Primitive;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;

/** z = x ⊙ y of two activations of the same shape. */
public record Multiply() implements Primitive {
  @Override
  public long[] shape(List<long[]> inputs) {
    Shapes.check(
        Arrays.equals(inputs.get(0), inputs.get(1)), "factors must have the same shape", inputs);
    return inputs.getFirst();
  }

  @Override
  public Saved forward(Kernels k, Tensor[] x, Tensor y, boolean keep) {
    k.multiply(x[0], x[1], y, false);
    return Saved.NOTHING;
  }

  @Override
  public void jvp(Kernels k, Evaluation e, @Nullable Tensor[] dx, Tensor dy) {
    boolean started = false;
    for (int i = 0; i < 2; i++) {
      Tensor d = dx[i];
      if (d != null) {
        k.multiply(d, e.x()[1 - i], dy, started);
        started = true;
      }
    }
  }

  @Override
  public void vjp(Kernels k, Evaluation e, Tensor gy, @Nullable Cotangent[] gx) {
    for (int i = 0; i < 2; i++) {
      Cotangent g = gx[i];
      if (g != null) {
        k.multiply(gy, e.x()[1 - i], g.target(), g.add());
      }
    }
  }
}
