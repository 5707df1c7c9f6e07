package org.meanflow.nn.engine.nd4j;

import static org.meanflow.nn.engine.nd4j.Nd4jOps.add;
import static org.meanflow.nn.engine.nd4j.Nd4jOps.array;
import static org.meanflow.nn.engine.nd4j.Nd4jOps.gemm;

import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.LinearKernels;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.ndarray.INDArray;

/** Affine maps as matrix products. */
final class Nd4jLinear implements LinearKernels {
  private final Nd4jOps ops;

  Nd4jLinear(Nd4jOps ops) {
    this.ops = ops;
  }

  @Override
  public void linear(Tensor x, Tensor w, @Nullable Tensor b, long biasRows, Tensor y) {
    gemm(x.matrix(w.dim(1)), false, w, true, y.matrix(w.dim(0)), false);
    if (b != null) {
      INDArray biased = array(y.matrix(w.dim(0)).rows(0, biasRows));
      add(biased, array(b.reshape(1, b.size())), biased);
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
    Tensor g = gy.matrix(w.dim(0));
    if (gx != null) {
      gemm(g, false, w, false, gx.target().matrix(w.dim(1)), gx.add());
    }
    if (gw != null) {
      gemm(g, true, x.matrix(w.dim(1)), false, gw.target().matrix(w.dim(1)), gw.add());
    }
    if (gb != null) {
      ops.sumRows(g, gb.target(), gb.add());
    }
  }
}
