package org.meanflow.nn.engine.cuda;

import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.FeedForwardKernels;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;

/**
 * Feed-forward networks as products by cuBLASLt, which takes the GELU and its slope on the way
 * where it can; elsewhere a kernel does, in place.
 */
final class CudaFeedForward implements FeedForwardKernels {
  private final CudaEngine engine;
  private final CudaLinear linear;
  private final CudaElementwise elementwise;
  private final Products products;
  private final boolean fused;

  /** {@code fused} lets cuBLASLt take the GELU. */
  CudaFeedForward(
      CudaEngine engine,
      CudaLinear linear,
      CudaElementwise elementwise,
      Products products,
      boolean fused) {
    this.engine = engine;
    this.linear = linear;
    this.elementwise = elementwise;
    this.products = products;
    this.fused = fused;
  }

  /** h = W₁ x + b₁ and a = GELU(h). */
  private record Hidden(Tensor h, Tensor a) implements Saved {
    @Override
    public void close() {
      h.close();
      a.close();
    }
  }

  private CudaTensor hidden(Tensor x, Weights w) {
    return engine.allocate(Storage.COMPACT, rows(x), w.w1().dim(0));
  }

  private static long rows(Tensor x) {
    return x.size() / x.dim(-1);
  }

  @Override
  public Saved feedForward(Tensor x, Weights w, Tensor y, boolean keep) {
    CudaTensor a = hidden(x, w);
    CudaTensor h = keep ? hidden(x, w) : null;
    if (!fused || !activated(x, w, h, a)) {
      CudaTensor before = h == null ? a : h;
      linear.linear(x, w.w1(), w.b1(), rows(x), before);
      elementwise.gelu(before, a, keep);
    }
    linear.linear(a, w.w2(), w.b2(), rows(x), y);
    if (h != null) {
      return new Hidden(h, a);
    }
    a.close();
    return Saved.NOTHING;
  }

  private boolean activated(Tensor x, Weights w, @Nullable CudaTensor h, CudaTensor a) {
    CudaTensor weight = engine.compactParameter((CudaTensor) w.w1());
    CudaTensor bias = (CudaTensor) w.b1();
    CudaTensor typed = a.bfloat16 ? engine.compactParameter(bias) : bias;
    try (CudaTensor factor = engine.compact(CudaLinear.matrix(x, weight.dim(1)))) {
      return products.geluOfTimesTransposed(factor, weight, typed, h, a);
    }
  }

  @Override
  public void feedForwardTangent(Weights w, Saved saved, Tensor dx, Tensor dy) {
    try (CudaTensor d = hidden(dx, w)) {
      linear.linear(dx, w.w1(), null, 0, d);
      elementwise.geluSlope(((Hidden) saved).h.rows(0, rows(dx)), Saved.NOTHING, d, d, false);
      linear.linear(d, w.w2(), null, 0, dy);
    }
  }

  @Override
  public void feedForwardBackward(
      Tensor x, Weights w, Saved saved, Tensor gy, @Nullable Cotangent gx, Gradients gradients) {
    Hidden hidden = (Hidden) saved;
    try (CudaTensor gh = hidden(x, w)) {
      boolean sloped = fused && sloped(gy, w, hidden, gh);
      linear.linearBackward(
          hidden.a,
          w.w2(),
          gy,
          sloped ? null : new Cotangent(gh, false),
          gradients.w2(),
          gradients.b2());
      if (!sloped) {
        elementwise.geluSlope(hidden.h, Saved.NOTHING, gh, gh, false);
      }
      linear.linearBackward(x, w.w1(), gh, gx, gradients.w1(), gradients.b1());
    }
  }

  private boolean sloped(Tensor gy, Weights w, Hidden hidden, CudaTensor gh) {
    CudaTensor weight = engine.compactParameter((CudaTensor) w.w2());
    try (CudaTensor factor = engine.compact(CudaLinear.matrix(gy, weight.dim(0)))) {
      return products.timesWithGeluSlope(factor, weight, (CudaTensor) hidden.h, gh);
    }
  }
}
