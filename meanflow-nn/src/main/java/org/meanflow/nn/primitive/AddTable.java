package org.meanflow.nn.primitive;

import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.autodiff.Primitive;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;

/**
 * Adds a table to every sample, such as a positional embedding.
 *
 * <p>Inputs: x {@code [batch, ...]}, table with as many elements as one sample. Result: the shape
 * of x.
 */
public record AddTable() implements Primitive {
  @Override
  public long[] shape(List<long[]> inputs) {
    long[] x = inputs.get(0);
    Shapes.check(
        Tensor.size(inputs.get(1)) * x[0] == Tensor.size(x),
        "table must have as many elements as one sample",
        inputs);
    return x;
  }

  @Override
  public Saved forward(Kernels k, Tensor[] x, Tensor y, boolean keep) {
    k.elementwise().addTable(x[0], x[1], y);
    return Saved.NOTHING;
  }

  @Override
  public void jvp(Kernels k, Evaluation e, @Nullable Tensor[] dx, Tensor dy) {
    k.elementwise().copy(Objects.requireNonNull(dx[0]), dy);
  }

  @Override
  public void vjp(Kernels k, Evaluation e, Tensor gy, @Nullable Cotangent[] gx) {
    Cotangent g = gx[0];
    Cotangent gTable = gx[1];
    if (g != null) {
      k.elementwise().scale(1, gy, g.target(), g.add());
    }
    if (gTable != null) {
      k.elementwise().sumOverBatch(gy, gTable.target(), gTable.add());
    }
  }

  @Override
  public boolean passesCotangent(int i) {
    return i == 0;
  }
}
