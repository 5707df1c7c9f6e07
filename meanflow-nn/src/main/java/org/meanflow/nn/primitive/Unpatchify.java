package org.meanflow.nn.primitive;

import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.autodiff.Primitive;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.PatchOrder;
import org.meanflow.nn.engine.Tensor;

/**
 * Puts patches together to images: the inverse of {@link Patchify}.
 *
 * <p>Input: {@code [batch, (height/patch)·(width/patch), channels·patch²]}. Result: {@code [batch,
 * channels, height, width]}.
 *
 * @param order order of the values of a patch within its token
 * @param patch side of a patch; divides height and width
 * @param channels channels of an image
 * @param height height of an image, pixels
 * @param width width of an image, pixels
 */
public record Unpatchify(PatchOrder order, int patch, int channels, int height, int width)
    implements Primitive.Stackable {
  @Override
  public long[] shape(List<long[]> inputs) {
    long[] x = inputs.getFirst();
    long tokens = (long) (height / patch) * (width / patch);
    Shapes.check(
        x.length == 3 && x[1] == tokens && x[2] == (long) channels * patch * patch,
        "tokens must be [batch, %d, %d]".formatted(tokens, (long) channels * patch * patch),
        inputs);
    return new long[] {x[0], channels, height, width};
  }

  @Override
  public void forwardStacked(Kernels k, Tensor[] x, long batch, Tensor y) {
    k.unpatchify(order, patch, x[0], y, false);
  }

  @Override
  public void jvp(Kernels k, Evaluation e, @Nullable Tensor[] dx, Tensor dy) {
    k.unpatchify(order, patch, Objects.requireNonNull(dx[0]), dy, false);
  }

  @Override
  public void vjp(Kernels k, Evaluation e, Tensor gy, @Nullable Cotangent[] gx) {
    Cotangent g = gx[0];
    if (g != null) {
      k.patchify(order, patch, gy, g.target(), g.add());
    }
  }
}
