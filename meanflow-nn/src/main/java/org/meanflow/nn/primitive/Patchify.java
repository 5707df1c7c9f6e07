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
 * Cuts images into patches, one token for each.
 *
 * <p>Input: {@code [batch, channels, height, width]}. Result: {@code [batch,
 * (height/patch)·(width/patch), channels·patch²]}, rows of patches first.
 *
 * @param order order of the values of a patch within its token
 * @param patch side of a patch; divides height and width
 */
public record Patchify(PatchOrder order, int patch) implements Primitive.Stackable {
  @Override
  public long[] shape(List<long[]> inputs) {
    long[] x = inputs.getFirst();
    Shapes.check(
        x.length == 4 && x[2] % patch == 0 && x[3] % patch == 0,
        "images must be [batch, channels, height, width] in multiples of the patch size " + patch,
        inputs);
    return new long[] {x[0], (x[2] / patch) * (x[3] / patch), x[1] * patch * patch};
  }

  @Override
  public void forwardStacked(Kernels k, Tensor[] x, long batch, Tensor y) {
    k.patchify(order, patch, x[0], y, false);
  }

  @Override
  public void jvp(Kernels k, Evaluation e, @Nullable Tensor[] dx, Tensor dy) {
    k.patchify(order, patch, Objects.requireNonNull(dx[0]), dy, false);
  }

  @Override
  public void vjp(Kernels k, Evaluation e, Tensor gy, @Nullable Cotangent[] gx) {
    Cotangent g = gx[0];
    if (g != null) {
      k.unpatchify(order, patch, gy, g.target(), g.add());
    }
  }
}
