package org.meanflow.nn.engine.nd4j;

import static org.meanflow.nn.engine.nd4j.Nd4jOps.add;
import static org.meanflow.nn.engine.nd4j.Nd4jOps.array;

import org.meanflow.nn.engine.ElementwiseKernels;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.api.ops.impl.transforms.custom.SoftMax;
import org.nd4j.linalg.api.ops.impl.transforms.pairwise.arithmetic.SubOp;
import org.nd4j.linalg.api.ops.impl.transforms.strict.Sigmoid;
import org.nd4j.linalg.factory.Nd4j;

/** Elementwise maps, each the plain formula of its interface. */
final class Nd4jElementwise implements ElementwiseKernels {
  private static final double GELU_K = 2 * Math.sqrt(2 / Math.PI);
  private static final double GELU_CUBIC = 0.044715;

  private final Nd4jEngine engine;
  private final Nd4jOps ops;

  Nd4jElementwise(Nd4jEngine engine, Nd4jOps ops) {
    this.engine = engine;
    this.ops = ops;
  }

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
    ops.into(z, add, product -> array(x).muli(array(y), product));
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
      ops.into(y, add, product -> slope.muli(array(d), product));
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
      ops.into(y, add, product -> slope.muli(array(d), product));
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
      ops.into(z, add, result -> p.muli(array(y), result));
    }
  }

  @Override
  public void addTable(Tensor x, Tensor table, Tensor y) {
    long row = table.size();
    add(array(x.matrix(row)), array(table.reshape(1, row)), array(y.matrix(row)));
  }

  @Override
  public void sumOverBatch(Tensor x, Tensor y, boolean add) {
    ops.sumRows(x.reshape(x.dim(0), x.size() / x.dim(0)), y, add);
  }
}
