package org.meanflow.nn.primitive;

import java.util.List;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.autodiff.Primitive;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;

/**
 * Adaptive normalisation, y = norm(x) ⊙ (1 + scale) + shift (Peebles and Xie, arXiv 2212.09748).
 *
 * <p>Inputs: x {@code [batch, tokens, width]}, modulation {@code [batch, k·width]}, of which this
 * reads two chunks of {@code width} columns. Result: the shape of x.
 *
 * @param norm what is normalised
 * @param shift index of the chunk that is the shift
 * @param scale index of the chunk that is the scale
 */
public record NormModulate(Norm norm, int shift, int scale) implements Primitive {
  @Override
  public long[] shape(List<long[]> inputs) {
    long[] x = inputs.get(0);
    long[] m = inputs.get(1);
    Shapes.check(
        x.length == 3
            && m.length == 2
            && m[0] == x[0]
            && m[1] % x[2] == 0
            && Math.max(shift, scale) < m[1] / x[2],
        "modulation must be [batch, k*width] for x [batch, tokens, width]",
        inputs);
    return x;
  }

  @Override
  public Saved forward(Kernels k, Tensor[] x, Tensor y, boolean keep) {
    return k.modulation().normModulate(norm, x[0], x[1], shift, scale, y, keep);
  }

  @Override
  public void jvp(Kernels k, Evaluation e, @Nullable Tensor[] dx, Tensor dy) {
    k.modulation()
        .normModulateTangent(norm, e.x()[0], e.x()[1], shift, scale, e.saved(), dx[0], dx[1], dy);
  }

  @Override
  public void vjp(Kernels k, Evaluation e, Tensor gy, @Nullable Cotangent[] gx) {
    k.modulation()
        .normModulateBackward(norm, e.x()[0], e.x()[1], shift, scale, e.saved(), gy, gx[0], gx[1]);
  }

  @Override
  public boolean writesPart(int i) {
    return i == 1;
  }

  @Override
  public Storage storage() {
    return Storage.COMPACT;
  }
}
