package org.meanflow.nn.primitive;

import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.autodiff.Primitive;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;

/**
 * Normalises the last dimension: y = norm(x) ⊙ gain.
 *
 * <p>Inputs: x {@code [batch, ..., width]} and optionally gain {@code [width]}. Result: the shape
 * of x.
 *
 * @param norm what is normalised
 */
public record Normalize(Norm norm) implements Primitive {
  @Override
  public long[] shape(List<long[]> inputs) {
    long[] x = inputs.get(0);
    Shapes.check(
        inputs.size() < 2 || Tensor.size(inputs.get(1)) == Shapes.last(x),
        "gain must have one element for each of the last dimension",
        inputs);
    return x;
  }

  @Override
  public Saved forward(Kernels k, Tensor[] x, Tensor y, boolean keep) {
    return k.norm(norm, x[0], gain(x), y, keep);
  }

  @Override
  public void jvp(Kernels k, Evaluation e, @Nullable Tensor[] dx, Tensor dy) {
    k.normTangent(norm, e.x()[0], gain(e.x()), e.saved(), Objects.requireNonNull(dx[0]), dy);
  }

  @Override
  public void vjp(Kernels k, Evaluation e, Tensor gy, @Nullable Cotangent[] gx) {
    Cotangent gGain = gx.length > 1 ? gx[1] : null;
    k.normBackward(norm, e.x()[0], gain(e.x()), e.saved(), gy, gx[0], gGain);
  }

  private static @Nullable Tensor gain(Tensor[] x) {
    return x.length > 1 ? x[1] : null;
  }
}
