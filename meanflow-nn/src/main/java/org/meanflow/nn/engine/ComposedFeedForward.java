package org.meanflow.nn.engine;

import org.jspecify.annotations.Nullable;

/** A feed-forward network out of an engine's affine maps and its GELU. */
public final class ComposedFeedForward implements FeedForwardKernels {
  private final Engine engine;
  private final LinearKernels linear;
  private final ElementwiseKernels elementwise;

  /**
   * Kernels out of kernels.
   *
   * @param engine allocates
   * @param linear affine maps
   * @param elementwise the GELU
   */
  public ComposedFeedForward(Engine engine, LinearKernels linear, ElementwiseKernels elementwise) {
    this.engine = engine;
    this.linear = linear;
    this.elementwise = elementwise;
  }

  private record Hidden(Tensor h, Tensor a, Saved gelu) implements Saved {
    @Override
    public void close() {
      h.close();
      a.close();
      gelu.close();
    }
  }

  private Tensor hidden(Tensor x, Weights w) {
    long[] shape = x.shape().clone();
    shape[shape.length - 1] = w.w1().dim(0);
    return engine.allocate(Storage.COMPACT, shape);
  }

  private static long rows(Tensor x) {
    return x.size() / x.dim(-1);
  }

  @Override
  public Saved feedForward(Tensor x, Weights w, Tensor y, boolean keep) {
    Tensor h = hidden(x, w);
    Tensor a = hidden(x, w);
    linear.linear(x, w.w1(), w.b1(), rows(x), h);
    Hidden saved = new Hidden(h, a, elementwise.gelu(h, a, keep));
    linear.linear(a, w.w2(), w.b2(), rows(x), y);
    if (keep) {
      return saved;
    }
    saved.close();
    return Saved.NOTHING;
  }

  @Override
  public void feedForwardTangent(Weights w, Saved saved, Tensor dx, Tensor dy) {
    Hidden hidden = (Hidden) saved;
    try (Tensor dh = hidden(dx, w);
        Tensor da = hidden(dx, w)) {
      linear.linear(dx, w.w1(), null, 0, dh);
      elementwise.geluSlope(hidden.h.rows(0, dx.dim(0)), hidden.gelu, dh, da, false);
      linear.linear(da, w.w2(), null, 0, dy);
    }
  }

  @Override
  public void feedForwardBackward(
      Tensor x, Weights w, Saved saved, Tensor gy, @Nullable Cotangent gx, Gradients gradients) {
    Hidden hidden = (Hidden) saved;
    try (Tensor ga = hidden(x, w);
        Tensor gh = hidden(x, w)) {
      linear.linearBackward(
          hidden.a, w.w2(), gy, new Cotangent(ga, false), gradients.w2(), gradients.b2());
      elementwise.geluSlope(hidden.h, hidden.gelu, ga, gh, false);
      linear.linearBackward(x, w.w1(), gh, gx, gradients.w1(), gradients.b1());
    }
  }
}
