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
 * Sinusoidal features of a time, [cos(a f_k), sin(a f_k)] with a = scale·t and f_k = 10000^(−k/n),
 * k = 0…n−1.
 *
 * <p>Input: t {@code [batch]}. Result: {@code [batch, 2n]}.
 *
 * @param scale factor on the time: 1, or 1000 as for the step numbers of a diffusion model
 * @param count number of features, 2n
 */
public record TimeFeatures(double scale, int count) implements Primitive {

  /** Checks the ranges. */
  public TimeFeatures {
    if (!(scale > 0 && Double.isFinite(scale))) {
      throw new IllegalArgumentException("timeScale must be finite and > 0, got " + scale);
    }
    if (count < 2 || count % 2 != 0) {
      throw new IllegalArgumentException("timeFeatures must be even and >= 2, got " + count);
    }
  }

  @Override
  public long[] shape(List<long[]> inputs) {
    Shapes.check(inputs.getFirst().length == 1, "times must be [batch]", inputs);
    return new long[] {inputs.getFirst()[0], count};
  }

  @Override
  public Saved forward(Kernels k, Tensor[] x, Tensor y, boolean keep) {
    k.timeFeatures(scale, x[0], y);
    return Saved.NOTHING;
  }

  @Override
  public void jvp(Kernels k, Evaluation e, @Nullable Tensor[] dx, Tensor dy) {
    k.timeFeaturesTangent(scale, e.x()[0], Objects.requireNonNull(dx[0]), dy);
  }

  @Override
  public void vjp(Kernels k, Evaluation e, Tensor gy, @Nullable Cotangent[] gx) {
    Cotangent g = gx[0];
    if (g != null) {
      k.timeFeaturesBackward(scale, e.x()[0], gy, g);
    }
  }
}
