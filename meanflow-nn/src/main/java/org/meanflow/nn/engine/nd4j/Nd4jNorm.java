package org.meanflow.nn.engine.nd4j;

import static org.meanflow.nn.engine.nd4j.Nd4jOps.array;
import static org.meanflow.nn.engine.nd4j.Nd4jOps.multiply;

import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.NormKernels;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.api.ops.impl.transforms.pairwise.arithmetic.SubOp;
import org.nd4j.linalg.factory.Nd4j;
import org.nd4j.linalg.ops.transforms.Transforms;

/** RMS norm and layer norm. */
final class Nd4jNorm implements NormKernels {
  private final Nd4jEngine engine;
  private final Nd4jOps ops;

  Nd4jNorm(Nd4jEngine engine, Nd4jOps ops) {
    this.engine = engine;
    this.ops = ops;
  }

  /** x̂ and 1/√(… + ε) for each row; both empty for no normalisation, where x̂ = x. */
  record Normalised(Tensor xHat, @Nullable Tensor inverseScale) implements Saved {
    @Override
    public void close() {
      if (inverseScale != null) {
        xHat.close();
        inverseScale.close();
      }
    }

    Normalised rows(long rows) {
      return new Normalised(
          xHat.rows(0, rows), inverseScale == null ? null : inverseScale.rows(0, rows));
    }
  }

  /** Normalises the rows of {@code x}, {@code [rows, width]}. */
  Normalised normalise(Norm norm, Tensor x) {
    if (norm.kind() == Norm.Kind.NONE) {
      return new Normalised(x, null);
    }
    Tensor xHat = engine.allocate(x.shape());
    Tensor inverseScale = engine.allocate(x.dim(0), 1);
    INDArray h = array(xHat);
    INDArray scale = array(inverseScale);
    try (Tensor squares = engine.allocate(x.shape())) {
      INDArray centred = array(x);
      if (norm.kind() == Norm.Kind.LAYER) {
        Nd4j.exec(new SubOp(centred, centred.mean(true, 1), h));
        centred = h;
      }
      centred.muli(centred, array(squares));
      scale.assign(array(squares).mean(true, 1));
      scale.addi(norm.epsilon());
      Transforms.sqrt(scale, false);
      scale.rdivi(1);
      multiply(centred, scale, h);
    }
    return new Normalised(xHat, inverseScale);
  }

  /**
   * The derivative of x̂ applied to {@code d}: (d − x̂·mean(x̂ ⊙ d)) / σ, for layer norm also minus
   * mean(d). The map is symmetric, so it serves tangents and cotangents.
   */
  void normaliseSlope(Norm norm, Normalised saved, Tensor d, INDArray result) {
    Tensor inverseScale = saved.inverseScale;
    if (inverseScale == null) {
      result.assign(array(d));
      return;
    }
    INDArray xHat = array(saved.xHat);
    try (Tensor product = engine.allocate(d.shape())) {
      INDArray p = array(product);
      xHat.muli(array(d), p);
      INDArray mean = p.mean(true, 1);
      INDArray meanD = norm.kind() == Norm.Kind.LAYER ? array(d).mean(true, 1) : null;
      multiply(xHat, mean, p);
      array(d).subi(p, result);
      if (meanD != null) {
        Nd4j.exec(new SubOp(result, meanD, result));
      }
      multiply(result, array(inverseScale), result);
    }
  }

  @Override
  public Saved norm(Norm norm, Tensor x, @Nullable Tensor gain, Tensor y, boolean keep) {
    long width = x.dim(-1);
    Normalised saved = normalise(norm, x.matrix(width));
    applyGain(saved.xHat, gain, array(y.matrix(width)));
    return keptIf(keep, saved);
  }

  private static void applyGain(Tensor rows, @Nullable Tensor gain, INDArray result) {
    if (gain != null) {
      multiply(array(rows), array(gain.reshape(1, gain.size())), result);
    } else {
      result.assign(array(rows));
    }
  }

  static Saved keptIf(boolean keep, Saved saved) {
    if (keep) {
      return saved;
    }
    saved.close();
    return Saved.NOTHING;
  }

  @Override
  public void normTangent(
      Norm norm, Tensor x, @Nullable Tensor gain, Saved saved, Tensor dx, Tensor dy) {
    Tensor d = dx.matrix(x.dim(-1));
    Tensor result = dy.matrix(x.dim(-1));
    normaliseSlope(norm, ((Normalised) saved).rows(d.dim(0)), d, array(result));
    if (gain != null) {
      applyGain(result, gain, array(result));
    }
  }

  @Override
  public void normBackward(
      Norm norm,
      Tensor x,
      @Nullable Tensor gain,
      Saved saved,
      Tensor gy,
      @Nullable Cotangent gx,
      @Nullable Cotangent gGain) {
    long width = x.dim(-1);
    Normalised normalised = (Normalised) saved;
    Tensor g = gy.matrix(width);
    if (gGain != null) {
      try (Tensor product = engine.allocate(g.shape())) {
        array(g).muli(array(normalised.xHat), array(product));
        ops.sumRows(product, gGain.target(), gGain.add());
      }
    }
    if (gx != null) {
      try (Tensor scaled = engine.allocate(g.shape())) {
        applyGain(g, gain, array(scaled));
        ops.into(
            gx.target().matrix(width),
            gx.add(),
            result -> normaliseSlope(norm, normalised, scaled, result));
      }
    }
  }
}
