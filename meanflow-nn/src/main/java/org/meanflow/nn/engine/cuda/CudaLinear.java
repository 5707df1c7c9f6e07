package org.meanflow.nn.engine.cuda;

import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.LinearKernels;
import org.meanflow.nn.engine.Tensor;

/** Affine maps as products by cuBLASLt, which also adds the bias. */
final class CudaLinear implements LinearKernels {
  private final CudaEngine engine;
  private final CudaElementwise elementwise;
  private final Products products;

  CudaLinear(CudaEngine engine, CudaElementwise elementwise, Products products) {
    this.engine = engine;
    this.elementwise = elementwise;
    this.products = products;
  }

  private static CudaTensor matrix(Tensor tensor, long columns) {
    return (CudaTensor) tensor.matrix(columns);
  }

  @Override
  public void linear(Tensor x, Tensor w, @Nullable Tensor b, long biasRows, Tensor y) {
    CudaTensor result = matrix(y, w.dim(0));
    CudaTensor weight = engine.compactParameter((CudaTensor) w);
    try (CudaTensor factor = engine.compact(matrix(x, w.dim(1)))) {
      long rows = factor.dim(0);
      long biased = b == null ? 0 : biasRows;
      if (b != null && biased > 0) {
        CudaTensor bias = (CudaTensor) b;
        if (result.bfloat16) {
          bias = engine.compactParameter(bias);
        }
        products.timesTransposed(
            (CudaTensor) factor.rows(0, biased),
            weight,
            bias.address(),
            (CudaTensor) result.rows(0, biased),
            false);
      }
      if (biased < rows) {
        products.timesTransposed(
            (CudaTensor) factor.rows(biased, rows),
            weight,
            0,
            (CudaTensor) result.rows(biased, rows),
            false);
      }
    }
  }

  @Override
  public void linearBackward(
      Tensor x,
      Tensor w,
      Tensor gy,
      @Nullable Cotangent gx,
      @Nullable Cotangent gw,
      @Nullable Cotangent gb) {
    CudaTensor g = matrix(gy, w.dim(0));
    if (gx != null || gw != null) {
      try (CudaTensor factor = engine.compact(g)) {
        if (gx != null) {
          CudaTensor weight = engine.compactParameter((CudaTensor) w);
          products.times(factor, weight, matrix(gx.target(), w.dim(1)), gx.add());
        }
        if (gw != null) {
          try (CudaTensor input = engine.compact(matrix(x, w.dim(1)))) {
            products.transposedTimes(factor, input, matrix(gw.target(), w.dim(1)), gw.add());
          }
        }
      }
    }
    if (gb != null) {
      elementwise.columnSums(g, gb.target(), g.dim(0), w.dim(0), gb.add());
    }
  }
}
