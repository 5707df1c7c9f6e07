package org.meanflow.nn.engine.nd4j;

import java.util.HashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.PatchOrder;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.api.ops.impl.transforms.custom.SoftMax;
import org.nd4j.linalg.api.ops.impl.transforms.pairwise.arithmetic.AddOp;
import org.nd4j.linalg.api.ops.impl.transforms.pairwise.arithmetic.MulOp;
import org.nd4j.linalg.api.ops.impl.transforms.pairwise.arithmetic.SubOp;
import org.nd4j.linalg.api.ops.impl.transforms.strict.Sigmoid;
import org.nd4j.linalg.factory.Nd4j;
import org.nd4j.linalg.ops.transforms.Transforms;

/** The kernels, each the plain formula of its interface in ND4J operations. */
final class Nd4jKernels implements Kernels {
  private static final double GELU_K = 2 * Math.sqrt(2 / Math.PI);
  private static final double GELU_CUBIC = 0.044715;
  private static final double MAX_PERIOD = 10_000;

  private final Nd4jEngine engine;
  private final Map<Long, INDArray> ones = new HashMap<>();

  Nd4jKernels(Nd4jEngine engine) {
    this.engine = engine;
  }

  // Linear maps

  @Override
  public void linear(Tensor x, Tensor w, @Nullable Tensor b, long biasRows, Tensor y) {
    multiplyMatrices(x.matrix(w.dim(1)), false, w, true, y.matrix(w.dim(0)), false);
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
      multiplyMatrices(g, false, w, false, gx.target().matrix(w.dim(1)), gx.add());
    }
    if (gw != null) {
      multiplyMatrices(g, true, x.matrix(w.dim(1)), false, gw.target().matrix(w.dim(1)), gw.add());
    }
    if (gb != null) {
      sumRows(g, gb.target(), gb.add());
    }
  }

  /**
   * C = op(A) op(B), or C += …, all row-major. BLAS is asked for the transpose of everything, since
   * a row-major matrix is a column-major transpose; any other order makes ND4J copy.
   */
  private static void multiplyMatrices(
      Tensor a, boolean transposeA, Tensor b, boolean transposeB, Tensor c, boolean add) {
    Nd4j.gemm(
        columnMajor(b), columnMajor(a), columnMajor(c), transposeB, transposeA, 1, add ? 1 : 0);
  }

  private static INDArray columnMajor(Tensor matrix) {
    return ((Nd4jTensor) matrix).columnMajor(matrix.dim(1), matrix.dim(0));
  }

  /** Sums of the columns of {@code [rows, columns]}, as a product with ones. */
  private void sumRows(Tensor x, Tensor y, boolean add) {
    Nd4j.gemm(
        columnMajor(x),
        ones(x.dim(0)),
        ((Nd4jTensor) y).columnMajor(y.size(), 1),
        false,
        false,
        1,
        add ? 1 : 0);
  }

  private INDArray ones(long rows) {
    return ones.computeIfAbsent(
        rows, n -> Nd4j.ones(engine.precision().dataType(), n).reshape('f', n, 1));
  }

  // Elementwise maps

  @Override
  public void fill(Tensor x, double value) {
    array(x).assign(value);
  }

  @Override
  public void copy(Tensor x, Tensor y) {
    array(y).assign(array(x));
  }

  @Override
  public void combine(double alpha, Tensor x, double beta, Tensor y, Tensor z) {
    if (alpha == 1 && beta == 1) {
      array(x).addi(array(y), array(z));
    } else if (alpha == 1 && beta == -1) {
      array(x).subi(array(y), array(z));
    } else {
      try (Tensor scaled = engine.allocate(y.shape())) {
        array(y).muli(beta, array(scaled));
        array(x).muli(alpha, array(z));
        array(z).addi(array(scaled));
      }
    }
  }

  @Override
  public void scale(double alpha, Tensor x, Tensor y, boolean add) {
    if (!add) {
      array(x).muli(alpha, array(y));
    } else if (alpha == 1) {
      array(y).addi(array(x));
    } else {
      combine(1, y, alpha, x, y);
    }
  }

  @Override
  public void multiply(Tensor x, Tensor y, Tensor z, boolean add) {
    into(z, add, product -> array(x).muli(array(y), product));
  }

  @Override
  public void gelu(Tensor x, Tensor y) {
    try (Tensor gate = engine.allocate(x.shape())) {
      geluGate(x, gate);
      array(x).muli(array(gate), array(y));
    }
  }

  /** σ(2k(x + 0.044715x³)), for ½(1 + tanh a) = σ(2a). */
  private void geluGate(Tensor x, Tensor gate) {
    INDArray g = array(gate);
    array(x).muli(array(x), g);
    g.muli(GELU_K * GELU_CUBIC).addi(GELU_K).muli(array(x));
    Nd4j.exec(new Sigmoid(g, g));
  }

  /** With s = σ(a(x)): gelu′ = s + x s (1 − s) a′, a′ = 2k(1 + 3·0.044715x²). */
  @Override
  public void geluSlope(Tensor x, Tensor d, Tensor y, boolean add) {
    try (Tensor gate = engine.allocate(x.shape());
        Tensor rate = engine.allocate(x.shape())) {
      geluGate(x, gate);
      INDArray slope = array(rate);
      array(x).muli(array(x), slope);
      slope.muli(3 * GELU_K * GELU_CUBIC).addi(GELU_K).muli(array(x));
      gateSlope(gate, slope);
      into(y, add, product -> slope.muli(array(d), product));
    }
  }

  @Override
  public void silu(Tensor x, Tensor y) {
    try (Tensor gate = engine.allocate(x.shape())) {
      Nd4j.exec(new Sigmoid(array(x), array(gate)));
      array(x).muli(array(gate), array(y));
    }
  }

  /** With s = σ(x): silu′ = s + x s (1 − s). */
  @Override
  public void siluSlope(Tensor x, Tensor d, Tensor y, boolean add) {
    try (Tensor gate = engine.allocate(x.shape());
        Tensor rate = engine.allocate(x.shape())) {
      INDArray slope = array(rate);
      Nd4j.exec(new Sigmoid(array(x), array(gate)));
      slope.assign(array(x));
      gateSlope(gate, slope);
      into(y, add, product -> slope.muli(array(d), product));
    }
  }

  /** Turns x·a′ into s + s(1 − s)·x·a′, the slope of x σ(a(x)). */
  private void gateSlope(Tensor gate, INDArray slope) {
    INDArray s = array(gate);
    try (Tensor complement = engine.allocate(gate.shape())) {
      slope.muli(s.rsubi(1, array(complement))).addi(1).muli(s);
    }
  }

  @Override
  public void softmax(Tensor x, Tensor y) {
    Nd4j.exec(new SoftMax(array(x), array(y), -1));
  }

  @Override
  public void softmaxSlope(Tensor y, Tensor d, Tensor z, boolean add) {
    try (Tensor product = engine.allocate(y.shape())) {
      INDArray p = array(product);
      array(y).muli(array(d), p);
      INDArray sum = p.sum(true, -1);
      Nd4j.exec(new SubOp(array(d), sum, p));
      into(z, add, result -> p.muli(array(y), result));
    }
  }

  @Override
  public void addTable(Tensor x, Tensor table, Tensor y) {
    long row = table.size();
    add(array(x.matrix(row)), array(table.reshape(1, row)), array(y.matrix(row)));
  }

  @Override
  public void sumOverBatch(Tensor x, Tensor y, boolean add) {
    sumRows(x.reshape(x.dim(0), x.size() / x.dim(0)), y, add);
  }

  // Modulation: [batch, k·width] seen as [batch, 1, width], broadcast over the tokens

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
      INDArray row = ones(x.dim(0) * x.dim(1)).reshape('c', x.dim(0), 1, x.dim(1));
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
    Sum sum = new Sum(dOut);
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
      scale(1, gOut, gx.target(), gx.add());
    }
    if (gy != null) {
      into(
          gy.target(),
          gy.add(),
          product -> multiply(array(gOut), chunk(modulation, gate, y), product));
    }
    if (gModulation != null) {
      try (Tensor product = engine.allocate(y.shape())) {
        multiply(gOut, y, product, false);
        sumTokens(product, gModulation, gate);
      }
    }
  }

  // Normalisation

  /** x̂ and 1/√(… + ε) for each row; both empty for no normalisation, where x̂ = x. */
  private record Normalised(Tensor xHat, @Nullable Tensor inverseScale) implements Saved {
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
  private Normalised normalise(Norm norm, Tensor x) {
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
  private void normaliseSlope(Norm norm, Normalised saved, Tensor d, INDArray result) {
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

  private static Saved keptIf(boolean keep, Saved saved) {
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
        multiply(g, normalised.xHat, product, false);
        sumRows(product, gGain.target(), gGain.add());
      }
    }
    if (gx != null) {
      try (Tensor scaled = engine.allocate(g.shape())) {
        applyGain(g, gain, array(scaled));
        into(
            gx.target().matrix(width),
            gx.add(),
            result -> normaliseSlope(norm, normalised, scaled, result));
      }
    }
  }

  @Override
  public Saved normModulate(
      Norm norm, Tensor x, Tensor modulation, int shift, int scale, Tensor y, boolean keep) {
    Normalised saved = normalise(norm, x.matrix(x.dim(-1)));
    INDArray xHat = array(saved.xHat.reshape(x.shape()));
    INDArray result = array(y);
    multiply(xHat, chunk(modulation, scale, x), result);
    result.addi(xHat);
    add(result, chunk(modulation, shift, x), result);
    return keptIf(keep, saved);
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
    Normalised normalised = ((Normalised) saved).rows(dy.size() / width);
    Sum sum = new Sum(dy);
    if (dx != null) {
      try (Tensor dHat = engine.allocate(dx.shape())) {
        normaliseSlope(norm, normalised, dx.matrix(width), array(dHat.matrix(width)));
        sum.add(term -> multiply(array(dHat), chunk(modulation, scale, x), term));
        sum.add(term -> term.assign(array(dHat)));
      }
    }
    if (dModulation != null) {
      INDArray xHat = array(normalised.xHat.reshape(dy.shape()));
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
    Normalised normalised = (Normalised) saved;
    try (Tensor product = engine.allocate(x.shape())) {
      if (gModulation != null) {
        multiply(gy, normalised.xHat.reshape(x.shape()), product, false);
        sumTokens(product, gModulation, scale);
        sumTokens(gy, gModulation, shift);
      }
      if (gx != null) {
        multiply(array(gy), chunk(modulation, scale, x), array(product));
        array(product).addi(array(gy));
        into(
            gx.target().matrix(width),
            gx.add(),
            result -> normaliseSlope(norm, normalised, product.matrix(width), result));
      }
    }
  }

  // Attention

  /** Everything in head layout, {@code [batch·heads, tokens, ·]}; q and k are normalised. */
  private record Attention(
      Tensor heads, Tensor q, Tensor k, Saved qSaved, Saved kSaved, Tensor probabilities)
      implements Saved {
    @Override
    public void close() {
      heads.close();
      q.close();
      k.close();
      qSaved.close();
      kSaved.close();
      probabilities.close();
    }
  }

  @Override
  public Saved attention(
      int heads,
      Norm qkNorm,
      Tensor qkv,
      @Nullable Tensor qGain,
      @Nullable Tensor kGain,
      Tensor out,
      boolean keep) {
    Tensor split = splitHeads(qkv, 3, heads);
    Tensor q = engine.allocate(part(split, 0).shape());
    Tensor k = engine.allocate(part(split, 1).shape());
    Saved qSaved = norm(qkNorm, part(split, 0), qGain, q, true);
    Saved kSaved = norm(qkNorm, part(split, 1), kGain, k, true);
    long tokens = qkv.dim(1);
    Tensor probabilities = engine.allocate(q.dim(0), tokens, tokens);
    INDArray p = array(probabilities);
    Nd4j.matmul(array(q), array(k), p, false, true, false);
    p.muli(1 / Math.sqrt(q.dim(2)));
    Nd4j.exec(new SoftMax(p, p, -1));
    try (Tensor o = engine.allocate(1, q.dim(0), tokens, q.dim(2))) {
      Nd4j.matmul(p, array(part(split, 2)), array(part(o, 0)), false, false, false);
      mergeHeads(o, heads, array(out));
    }
    return keptIf(keep, new Attention(split, q, k, qSaved, kSaved, probabilities));
  }

  @Override
  public void attentionTangent(
      int heads,
      Norm qkNorm,
      Tensor qkv,
      @Nullable Tensor qGain,
      @Nullable Tensor kGain,
      Saved saved,
      Tensor dQkv,
      Tensor dOut) {
    Attention a = (Attention) saved;
    long rows = dQkv.dim(0) * heads;
    Tensor q = a.q.rows(0, rows);
    Tensor k = a.k.rows(0, rows);
    Tensor v = part(a.heads, 2).rows(0, rows);
    Tensor p = a.probabilities.rows(0, rows);
    try (Tensor split = splitHeads(dQkv, 3, heads);
        Tensor dq = engine.allocate(q.shape());
        Tensor dk = engine.allocate(k.shape());
        Tensor scores = engine.allocate(p.shape());
        Tensor more = engine.allocate(p.shape());
        Tensor o = engine.allocate(1, rows, q.dim(1), q.dim(2));
        Tensor o2 = engine.allocate(o.shape())) {
      normTangent(qkNorm, part(a.heads, 0), qGain, a.qSaved, part(split, 0), dq);
      normTangent(qkNorm, part(a.heads, 1), kGain, a.kSaved, part(split, 1), dk);
      Nd4j.matmul(array(dq), array(k), array(scores), false, true, false);
      Nd4j.matmul(array(q), array(dk), array(more), false, true, false);
      array(scores).addi(array(more)).muli(1 / Math.sqrt(q.dim(2)));
      softmaxSlope(p, scores, more, false);
      Nd4j.matmul(array(more), array(v), array(part(o, 0)), false, false, false);
      Nd4j.matmul(array(p), array(part(split, 2)), array(part(o2, 0)), false, false, false);
      array(o).addi(array(o2));
      mergeHeads(o, heads, array(dOut));
    }
  }

  @Override
  public void attentionBackward(
      int heads,
      Norm qkNorm,
      Tensor qkv,
      @Nullable Tensor qGain,
      @Nullable Tensor kGain,
      Saved saved,
      Tensor gOut,
      @Nullable Cotangent gQkv,
      @Nullable Cotangent gqGain,
      @Nullable Cotangent gkGain) {
    Attention a = (Attention) saved;
    INDArray p = array(a.probabilities);
    try (Tensor g = splitHeads(gOut, 1, heads);
        Tensor split = engine.allocate(a.heads.shape());
        Tensor gp = engine.allocate(a.probabilities.shape());
        Tensor gScores = engine.allocate(a.probabilities.shape());
        Tensor gq = engine.allocate(a.q.shape());
        Tensor gk = engine.allocate(a.k.shape())) {
      INDArray go = array(part(g, 0));
      Nd4j.matmul(p, go, array(part(split, 2)), true, false, false);
      Nd4j.matmul(go, array(part(a.heads, 2)), array(gp), false, true, false);
      softmaxSlope(a.probabilities, gp, gScores, false);
      array(gScores).muli(1 / Math.sqrt(a.q.dim(2)));
      Nd4j.matmul(array(gScores), array(a.k), array(gq), false, false, false);
      Nd4j.matmul(array(gScores), array(a.q), array(gk), true, false, false);
      Cotangent gq0 = new Cotangent(part(split, 0), false);
      Cotangent gk0 = new Cotangent(part(split, 1), false);
      normBackward(qkNorm, part(a.heads, 0), qGain, a.qSaved, gq, gq0, gqGain);
      normBackward(qkNorm, part(a.heads, 1), kGain, a.kSaved, gk, gk0, gkGain);
      if (gQkv != null) {
        into(gQkv.target(), gQkv.add(), result -> mergeHeads(split, heads, result));
      }
    }
  }

  private static Tensor part(Tensor split, long index) {
    long[] shape = split.shape();
    long size = split.size() / shape[0];
    return split.view(index * size, shape[1], shape[2], shape[3]);
  }

  /** {@code [batch, tokens, parts·width]} to {@code [parts, batch·heads, tokens, width/heads]}. */
  private Tensor splitHeads(Tensor x, long parts, long heads) {
    long batch = x.dim(0);
    long tokens = x.dim(1);
    long d = x.dim(2) / (parts * heads);
    Tensor split = engine.allocate(parts, batch * heads, tokens, d);
    array(split.reshape(parts, batch, heads, tokens, d))
        .assign(array(x.reshape(batch, tokens, parts, heads, d)).permute(2, 0, 3, 1, 4));
    return split;
  }

  /** The inverse of {@link #splitHeads}. */
  private static void mergeHeads(Tensor split, long heads, INDArray result) {
    long parts = split.dim(0);
    long batch = split.dim(1) / heads;
    long tokens = split.dim(2);
    long d = split.dim(3);
    result
        .reshape('c', batch, tokens, parts, heads, d)
        .assign(array(split.reshape(parts, batch, heads, tokens, d)).permute(1, 3, 0, 2, 4));
  }

  // Embeddings; times are few, so their features are computed in float64 on the host

  @Override
  public void timeFeatures(double scale, Tensor t, Tensor y) {
    int n = Math.toIntExact(y.dim(1) / 2);
    double[] times = doubles(t);
    double[] features = new double[times.length * 2 * n];
    for (int b = 0; b < times.length; b++) {
      for (int k = 0; k < n; k++) {
        double angle = scale * times[b] * frequency(k, n);
        features[2 * n * b + k] = Math.cos(angle);
        features[2 * n * b + n + k] = Math.sin(angle);
      }
    }
    engine.write(Nd4j.createFromArray(features), y);
  }

  @Override
  public void timeFeaturesTangent(double scale, Tensor t, Tensor dt, Tensor dy) {
    int n = Math.toIntExact(dy.dim(1) / 2);
    double[] rates = doubles(dt);
    double[] slopes = timeSlopes(scale, t, rates.length, n);
    for (int i = 0; i < slopes.length; i++) {
      slopes[i] *= rates[i / (2 * n)];
    }
    engine.write(Nd4j.createFromArray(slopes), dy);
  }

  @Override
  public void timeFeaturesBackward(double scale, Tensor t, Tensor gy, Cotangent gt) {
    int n = Math.toIntExact(gy.dim(1) / 2);
    double[] g = doubles(gy);
    int batch = Math.toIntExact(t.size());
    double[] slopes = timeSlopes(scale, t, batch, n);
    double[] sums = new double[batch];
    for (int i = 0; i < slopes.length; i++) {
      sums[i / (2 * n)] += slopes[i] * g[i];
    }
    INDArray result = Nd4j.createFromArray(sums).castTo(engine.precision().dataType());
    into(gt.target(), gt.add(), target -> target.assign(result.reshape(target.shape())));
  }

  private static double[] timeSlopes(double scale, Tensor t, int batch, int n) {
    double[] times = doubles(t);
    double[] slopes = new double[batch * 2 * n];
    for (int b = 0; b < batch; b++) {
      for (int k = 0; k < n; k++) {
        double rate = scale * frequency(k, n);
        slopes[2 * n * b + k] = -rate * Math.sin(rate * times[b]);
        slopes[2 * n * b + n + k] = rate * Math.cos(rate * times[b]);
      }
    }
    return slopes;
  }

  private static double frequency(int k, int n) {
    return Math.exp(-Math.log(MAX_PERIOD) * k / n);
  }

  private static double[] doubles(Tensor x) {
    return array(x.reshape(x.size())).castTo(DataType.DOUBLE).toDoubleVector();
  }

  @Override
  public void embedding(Tensor table, int[] indices, Tensor y) {
    try (Tensor oneHot = oneHot(indices, table.dim(0))) {
      multiplyMatrices(oneHot, false, table, false, y, false);
    }
  }

  @Override
  public void embeddingBackward(int[] indices, Tensor gy, Cotangent gTable) {
    try (Tensor oneHot = oneHot(indices, gTable.target().dim(0))) {
      multiplyMatrices(oneHot, true, gy, false, gTable.target(), gTable.add());
    }
  }

  private Tensor oneHot(int[] indices, long classes) {
    double[] values = new double[Math.toIntExact(indices.length * classes)];
    for (int b = 0; b < indices.length; b++) {
      values[Math.toIntExact(b * classes + indices[b])] = 1;
    }
    return engine.copyOf(Nd4j.createFromArray(values).reshape(indices.length, classes));
  }

  @Override
  public void patchify(PatchOrder order, int patch, Tensor images, Tensor tokens, boolean add) {
    INDArray target = grid(order, patch, images, tokens);
    INDArray source = patches(order, patch, images);
    if (add) {
      target.addi(source);
    } else {
      target.assign(source);
    }
  }

  @Override
  public void unpatchify(PatchOrder order, int patch, Tensor tokens, Tensor images, boolean add) {
    INDArray target = patches(order, patch, images);
    INDArray source = grid(order, patch, images, tokens);
    if (add) {
      target.addi(source);
    } else {
      target.assign(source);
    }
  }

  /** The tokens as (sample, patch row, patch column, values of the patch in order). */
  private static INDArray grid(PatchOrder order, int patch, Tensor images, Tensor tokens) {
    long batch = images.dim(0);
    long channels = images.dim(1);
    long rows = images.dim(2) / patch;
    long columns = images.dim(3) / patch;
    return array(
        switch (order) {
          case CHANNEL_FIRST -> tokens.reshape(batch, rows, columns, channels, patch, patch);
          case CHANNEL_LAST -> tokens.reshape(batch, rows, columns, patch, patch, channels);
        });
  }

  /** The images in the same order of axes. */
  private static INDArray patches(PatchOrder order, int patch, Tensor images) {
    INDArray axes =
        array(
            images.reshape(
                images.dim(0),
                images.dim(1),
                images.dim(2) / patch,
                patch,
                images.dim(3) / patch,
                patch));
    return switch (order) {
      case CHANNEL_FIRST -> axes.permute(0, 2, 4, 1, 3, 5);
      case CHANNEL_LAST -> axes.permute(0, 2, 4, 3, 5, 1);
    };
  }

  // Optimiser

  @Override
  public double squaredNorm(Tensor x) {
    double norm = array(x.reshape(x.size())).castTo(DataType.DOUBLE).norm2Number().doubleValue();
    return norm * norm;
  }

  @Override
  public void adamW(AdamWUpdate u, Tensor p, Tensor g, Tensor m, Tensor v) {
    try (Tensor work = engine.allocate(p.shape())) {
      INDArray w = array(work);
      array(m).muli(u.beta1());
      array(g).muli((1 - u.beta1()) * u.gradientScale(), w);
      array(m).addi(w);
      array(v).muli(u.beta2());
      array(g).muli(array(g), w);
      w.muli((1 - u.beta2()) * u.gradientScale() * u.gradientScale());
      array(v).addi(w);
      array(v).muli(1 / (1 - Math.pow(u.beta2(), u.step())), w);
      Transforms.sqrt(w, false);
      w.addi(u.epsilon());
      array(m).divi(w, w);
      w.muli(u.rate() / (1 - Math.pow(u.beta1(), u.step())));
      array(p).muli(1 - u.rate() * u.weightDecay()).subi(w);
    }
  }

  @Override
  public void movingAverage(double decay, Tensor p, Tensor average) {
    combine(decay, average, 1 - decay, p, average);
  }

  // Building blocks

  private static INDArray array(Tensor tensor) {
    return ((Nd4jTensor) tensor).array();
  }

  /** z = x + y with broadcasting. */
  private static void add(INDArray x, INDArray y, INDArray z) {
    Nd4j.exec(new AddOp(x, y, z));
  }

  /** z = x ⊙ y with broadcasting. */
  private static void multiply(INDArray x, INDArray y, INDArray z) {
    Nd4j.exec(new MulOp(x, y, z));
  }

  @FunctionalInterface
  private interface Computation {
    void writeTo(INDArray result);
  }

  /** Computes into {@code target}, or into a work array that is then added to it. */
  private void into(Tensor target, boolean add, Computation computation) {
    if (!add) {
      computation.writeTo(array(target));
      return;
    }
    try (Tensor term = engine.allocate(target.shape())) {
      computation.writeTo(array(term));
      array(target).addi(array(term));
    }
  }

  /** A result that is a sum of terms. */
  private final class Sum {
    private final Tensor target;
    private boolean started;

    Sum(Tensor target) {
      this.target = target;
    }

    void add(Computation term) {
      into(target, started, term);
      started = true;
    }
  }
}
