package org.meanflow.nn.engine.nd4j;

import static org.meanflow.nn.engine.nd4j.Nd4jOps.add;
import static org.meanflow.nn.engine.nd4j.Nd4jOps.array;
import static org.meanflow.nn.engine.nd4j.Nd4jOps.multiply;

import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.ModulationKernels;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/**
 * Shift, scale and gate: a modulation {@code [batch, k·width]} is seen as {@code [batch, 1, width]}
 * chunks and broadcast over the tokens.
 */
final class Nd4jModulation implements ModulationKernels {
  private final Nd4jEngine engine;
  private final Nd4jOps ops;
  private final Nd4jNorm norms;

  Nd4jModulation(Nd4jEngine engine, Nd4jOps ops, Nd4jNorm norms) {
    this.engine = engine;
    this.ops = ops;
    this.norms = norms;
  }

  private static INDArray chunk(Tensor modulation, int index, Tensor like) {
    long width = like.dim(-1);
    long columns = modulation.dim(1);
    return ((Nd4jTensor) modulation)
        .strided(
            index * width,
            new long[] {modulation.dim(0), 1, width},
            new long[] {columns, columns, 1});
  }

  /** Adds Σ_tokens of {@code [batch, tokens, width]} to a chunk of a modulation's cotangent. */
  private void sumTokens(Tensor x, Cotangent modulation, int index) {
    try (Tensor sum = engine.allocate(x.dim(0), 1, x.dim(2))) {
      INDArray row = ops.ones(x.dim(0) * x.dim(1)).reshape('c', x.dim(0), 1, x.dim(1));
      Nd4j.matmul(row, array(x), array(sum), false, false, false);
      INDArray target = chunk(modulation.target(), index, x);
      if (modulation.add()) {
        target.addi(array(sum));
      } else {
        target.assign(array(sum));
      }
    }
  }

  @Override
  public void gatedResidual(Tensor x, Tensor y, Tensor modulation, int gate, Tensor out) {
    multiply(array(y), chunk(modulation, gate, y), array(out));
    array(out).addi(array(x));
  }

  @Override
  public void gatedResidualTangent(
      Tensor y,
      Tensor modulation,
      int gate,
      @Nullable Tensor dx,
      @Nullable Tensor dy,
      @Nullable Tensor dModulation,
      Tensor dOut) {
    Nd4jOps.Sum sum = ops.new Sum(dOut);
    if (dx != null) {
      sum.add(term -> term.assign(array(dx)));
    }
    if (dy != null) {
      sum.add(term -> multiply(array(dy), chunk(modulation, gate, y), term));
    }
    if (dModulation != null) {
      sum.add(term -> multiply(array(y), chunk(dModulation, gate, y), term));
    }
  }

  @Override
  public void gatedResidualBackward(
      Tensor y,
      Tensor modulation,
      int gate,
      Tensor gOut,
      @Nullable Cotangent gx,
      @Nullable Cotangent gy,
      @Nullable Cotangent gModulation) {
    if (gx != null) {
      ops.into(gx.target(), gx.add(), result -> result.assign(array(gOut)));
    }
    if (gy != null) {
      ops.into(
          gy.target(),
          gy.add(),
          product -> multiply(array(gOut), chunk(modulation, gate, y), product));
    }
    if (gModulation != null) {
      try (Tensor product = engine.allocate(y.shape())) {
        array(gOut).muli(array(y), array(product));
        sumTokens(product, gModulation, gate);
      }
    }
  }

  @Override
  public Saved normModulate(
      Norm norm, Tensor x, Tensor modulation, int shift, int scale, Tensor y, boolean keep) {
    Nd4jNorm.Normalised saved = norms.normalise(norm, x.matrix(x.dim(-1)));
    INDArray xHat = array(saved.xHat().reshape(x.shape()));
    INDArray result = array(y);
    multiply(xHat, chunk(modulation, scale, x), result);
    result.addi(xHat);
    add(result, chunk(modulation, shift, x), result);
    return Nd4jNorm.keptIf(keep, saved);
  }

  @Override
  public void normModulateTangent(
      Norm norm,
      Tensor x,
      Tensor modulation,
      int shift,
      int scale,
      Saved saved,
      @Nullable Tensor dx,
      @Nullable Tensor dModulation,
      Tensor dy) {
    long width = x.dim(-1);
    Nd4jNorm.Normalised normalised = ((Nd4jNorm.Normalised) saved).rows(dy.size() / width);
    Nd4jOps.Sum sum = ops.new Sum(dy);
    if (dx != null) {
      try (Tensor dHat = engine.allocate(dx.shape())) {
        norms.normaliseSlope(norm, normalised, dx.matrix(width), array(dHat.matrix(width)));
        sum.add(term -> multiply(array(dHat), chunk(modulation, scale, x), term));
        sum.add(term -> term.assign(array(dHat)));
      }
    }
    if (dModulation != null) {
      INDArray xHat = array(normalised.xHat().reshape(dy.shape()));
      sum.add(term -> multiply(xHat, chunk(dModulation, scale, x), term));
      add(array(dy), chunk(dModulation, shift, x), array(dy));
    }
  }

  @Override
  public void normModulateBackward(
      Norm norm,
      Tensor x,
      Tensor modulation,
      int shift,
      int scale,
      Saved saved,
      Tensor gy,
      @Nullable Cotangent gx,
      @Nullable Cotangent gModulation) {
    long width = x.dim(-1);
    Nd4jNorm.Normalised normalised = (Nd4jNorm.Normalised) saved;
    try (Tensor product = engine.allocate(x.shape())) {
      if (gModulation != null) {
        array(gy).muli(array(normalised.xHat().reshape(x.shape())), array(product));
        sumTokens(product, gModulation, scale);
        sumTokens(gy, gModulation, shift);
      }
      if (gx != null) {
        multiply(array(gy), chunk(modulation, scale, x), array(product));
        array(product).addi(array(gy));
        ops.into(
            gx.target().matrix(width),
            gx.add(),
            result -> norms.normaliseSlope(norm, normalised, product.matrix(width), result));
      }
    }
  }
}
