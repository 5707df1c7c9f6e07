package org.meanflow.nn.primitive;

import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.autodiff.Primitive;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.FeedForwardKernels.Gradients;
import org.meanflow.nn.engine.FeedForwardKernels.Weights;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;

/**
 * Two affine maps of the last dimension with a {@link Gelu} between them, y = W₂ GELU(W₁ x + b₁) +
 * b₂ (Vaswani et al., arXiv 1706.03762, eq. 2, there with a ReLU).
 *
 * <p>Inputs: x {@code [batch, ..., width]}, W₁ {@code [hidden, width]}, b₁ {@code [hidden]}, W₂
 * {@code [out, hidden]}, b₂ {@code [out]}. Result: {@code [batch, ..., out]}.
 */
public record FeedForward() implements Primitive {

  @Override
  public long[] shape(List<long[]> inputs) {
    boolean fits = inputs.size() == 5;
    if (fits) {
      long[] w1 = inputs.get(1);
      long[] w2 = inputs.get(3);
      fits =
          w1.length == 2
              && w2.length == 2
              && Shapes.last(inputs.get(0)) == w1[1]
              && w2[1] == w1[0]
              && Tensor.size(inputs.get(2)) == w1[0]
              && Tensor.size(inputs.get(4)) == w2[0];
    }
    Shapes.check(
        fits,
        "feed-forward needs x [..., width], weight [hidden, width], bias [hidden], weight [out,"
            + " hidden] and bias [out]",
        inputs);
    return Shapes.withLast(inputs.get(0), inputs.get(3)[0]);
  }

  @Override
  public Storage storage() {
    return Storage.COMPACT;
  }

  private static Weights weights(Tensor[] x) {
    return new Weights(x[1], x[2], x[3], x[4]);
  }

  @Override
  public Saved forward(Kernels k, Tensor[] x, Tensor y, boolean keep) {
    return k.feedForward().feedForward(x[0], weights(x), y, keep);
  }

  @Override
  public void jvp(Kernels k, Evaluation e, @Nullable Tensor[] dx, Tensor dy) {
    k.feedForward()
        .feedForwardTangent(weights(e.x()), e.saved(), Objects.requireNonNull(dx[0]), dy);
  }

  @Override
  public void vjp(Kernels k, Evaluation e, Tensor gy, @Nullable Cotangent[] gx) {
    k.feedForward()
        .feedForwardBackward(
            e.x()[0],
            weights(e.x()),
            e.saved(),
            gy,
            gx[0],
            new Gradients(gx[1], gx[2], gx[3], gx[4]));
  }
}
