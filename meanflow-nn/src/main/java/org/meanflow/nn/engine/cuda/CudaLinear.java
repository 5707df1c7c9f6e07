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

  static CudaTensor matrix(Tensor tensor, long columns) {
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
        plusBias((CudaTensor) factor.rows(0, biased), weight, b, result.rows(0, biased));
      }
      if (biased < rows) {
        products.timesTransposed(
            (CudaTensor) factor.rows(biased, rows),
            weight,
            null,
            (CudaTensor) result.rows(biased, rows));
      }
    }
  }

  private void plusBias(CudaTensor x, CudaTensor w, Tensor b, Tensor y) {
    CudaTensor result = (CudaTensor) y;
    CudaTensor bias = (CudaTensor) b;
    CudaTensor typed = result.bfloat16 ? engine.compactParameter(bias) : bias;
    if (!products.timesTransposed(x, w, typed, result)) {
      products.timesTransposed(x, w, null, result);
      elementwise.addTable(result, bias, result);
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
    boolean summed = false;
    if (gx != null || gw != null) {
      try (CudaTensor factor = engine.compact(g)) {
        if (gx != null) {
          CudaTensor weight = engine.compactParameter((CudaTensor) w);
          products.times(factor, weight, matrix(gx.target(), w.dim(1)), gx.add());
        }
        if (gw != null) {
          try (CudaTensor input = engine.compact(matrix(x, w.dim(1)))) {
            summed = weightGradient(factor, input, gw, gb);
          }
        }
      }
    }
    if (gb != null && !summed) {
      elementwise.columnSums(g, gb.target(), g.dim(0), w.dim(0), gb.add());
    }
  }

  /** W̄ and, where the product does it on the way, b̄: then ȳ is not read once more for it. */
  private boolean weightGradient(CudaTensor g, CudaTensor x, Cotangent gw, @Nullable Cotangent gb) {
    CudaTensor product = matrix(gw.target(), x.dim(1));
    if (gb != null) {
      CudaTensor target = (CudaTensor) gb.target();
      if (!gb.add() && target.bfloat16 == product.bfloat16) {
        if (products.transposedTimes(g, x, target, product, gw.add())) {
          return true;
        }
      } else if (!product.bfloat16) {
        try (CudaTensor sums = engine.floats(g.dim(1))) {
          if (products.transposedTimes(g, x, sums, product, gw.add())) {
            elementwise.scale(1, sums, target, gb.add());
            return true;
          }
        }
      }
    }
    products.transposedTimes(g, x, null, product, gw.add());
    return false;
  }
}
