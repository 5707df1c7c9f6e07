package org.meanflow.nn.primitive;

import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.autodiff.Primitive;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;

/**
 * Affine map of the last dimension, y = x Wᵀ + b.
 *
 * <p>Inputs: x {@code [batch, ..., in]}, W {@code [out, in...]} (further extents are counted as
 * one, so a convolution whose stride is its size is a linear map of patches), and optionally b
 * {@code [out]}. Result: {@code [batch, ..., out]}.
 *
 * @param storage how precisely the result is kept
 */
public record Linear(Storage storage) implements Primitive.Stackable {

  /** A map whose result is kept in full. */
  public Linear() {
    this(Storage.FULL);
  }

  @Override
  public long[] shape(List<long[]> inputs) {
    long[] x = inputs.get(0);
    long[] w = inputs.get(1);
    long in = Tensor.size(w) / w[0];
    boolean fits =
        Shapes.last(x) == in && (inputs.size() < 3 || Tensor.size(inputs.get(2)) == w[0]);
    Shapes.check(fits, "linear needs x [..., in], weight [out, in] and bias [out]", inputs);
    return Shapes.withLast(x, w[0]);
  }

  @Override
  public void forwardStacked(Kernels k, Tensor[] x, long batch, Tensor y) {
    long rowsPerSample = x[0].size() / x[0].dim(0) / x[0].dim(-1);
    k.linear().linear(x[0], weight(x), x.length > 2 ? x[2] : null, batch * rowsPerSample, y);
  }

  @Override
  public void jvp(Kernels k, Evaluation e, @Nullable Tensor[] dx, Tensor dy) {
    k.linear().linear(Objects.requireNonNull(dx[0]), weight(e.x()), null, 0, dy);
  }

  @Override
  public void vjp(Kernels k, Evaluation e, Tensor gy, @Nullable Cotangent[] gx) {
    Tensor w = weight(e.x());
    Cotangent gw = gx[1];
    k.linear()
        .linearBackward(
            e.x()[0],
            w,
            gy,
            gx[0],
            gw == null ? null : gw.as(gw.target().reshape(w.shape())),
            gx.length > 2 ? gx[2] : null);
  }

  private static Tensor weight(Tensor[] x) {
    return x[1].reshape(x[1].dim(0), x[1].size() / x[1].dim(0));
  }
}
