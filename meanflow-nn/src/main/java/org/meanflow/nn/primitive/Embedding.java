package org.meanflow.nn.primitive;

import java.util.List;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.autodiff.Primitive;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;

/**
 * Looks up one row of a table for each sample.
 *
 * <p>Input: the table, a parameter {@code [rows, width]}. Result: {@code [batch, width]}, without
 * tangent, since labels have none.
 *
 * @param indices row of each sample, 0 ≤ index &lt; rows
 */
@SuppressWarnings("ArrayRecordComponent")
public record Embedding(int[] indices) implements Primitive {
  @Override
  public long[] shape(List<long[]> inputs) {
    long[] table = inputs.getFirst();
    Shapes.check(table.length == 2, "embedding needs a table [rows, width]", inputs);
    for (int i = 0; i < indices.length; i++) {
      if (indices[i] < 0 || indices[i] >= table[0]) {
        throw new IllegalArgumentException(
            "index must be in [0, %d), got %d in sample %d".formatted(table[0], indices[i], i));
      }
    }
    return new long[] {indices.length, table[1]};
  }

  @Override
  public Saved forward(Kernels k, Tensor[] x, Tensor y, boolean keep) {
    k.embedding(x[0], indices, y);
    return Saved.NOTHING;
  }

  @Override
  public void jvp(Kernels k, Evaluation e, @Nullable Tensor[] dx, Tensor dy) {
    throw new IllegalStateException("a parameter has no tangent");
  }

  @Override
  public void vjp(Kernels k, Evaluation e, Tensor gy, @Nullable Cotangent[] gx) {
    Cotangent g = gx[0];
    if (g != null) {
      k.embeddingBackward(indices, gy, g);
    }
  }
}
