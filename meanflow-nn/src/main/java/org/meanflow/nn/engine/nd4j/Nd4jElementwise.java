package org.meanflow.nn.engine.nd4j;

import static org.meanflow.nn.engine.nd4j.Nd4jOps.add;
import static org.meanflow.nn.engine.nd4j.Nd4jOps.array;

import org.meanflow.nn.engine.ElementwiseKernels;
import org.meanflow.nn.engine.Saved;
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

  /** The derivative of an elementwise map at each of its arguments. */
  private record Slope(Tensor value) implements Saved {
    @Override
    public void close() {
      value.close();
    }
  }

  @Override
  public Saved gelu(Tensor x, Tensor y, boolean keep) {
    try (Tensor gate = engine.allocate(x.shape())) {
      // ½(1 + tanh a) = σ(2a)
      INDArray s = array(gate);
      array(x).muli(array(x), s);
      s.muli(GELU_K * GELU_CUBIC).addi(GELU_K).muli(array(x));
      Nd4j.exec(new Sigmoid(s, s));
      array(x).muli(s, array(y));
      if (!keep) {
        return Saved.NOTHING;
      }
      Tensor rate = engine.allocate(x.shape());
      array(x).muli(array(x), array(rate));
      array(rate).muli(3 * GELU_K * GELU_CUBIC).addi(GELU_K).muli(array(x));
      return slope(s, rate);
    }
  }

  @Override
  public void geluSlope(Tensor x, Saved saved, Tensor d, Tensor y, boolean add) {
    multiplyBySlope(saved, d, y, add);
  }

  @Override
  public Saved silu(Tensor x, Tensor y, boolean keep) {
    try (Tensor gate = engine.allocate(x.shape())) {
      INDArray s = array(gate);
      Nd4j.exec(new Sigmoid(array(x), s));
      array(x).muli(s, array(y));
      if (!keep) {
        return Saved.NOTHING;
      }
      Tensor rate = engine.allocate(x.shape());
      array(rate).assign(array(x));
      return slope(s, rate);
    }
  }

  @Override
  public void siluSlope(Tensor x, Saved saved, Tensor d, Tensor y, boolean add) {
    multiplyBySlope(saved, d, y, add);
  }

  /** Turns x·a′ into the slope of x σ(a(x)): s + s(1 − s)·x·a′ with s = σ(a(x)). */
  private Slope slope(INDArray s, Tensor rate) {
    try (Tensor complement = engine.allocate(rate.shape())) {
      s.rsubi(1, array(complement));
      array(rate).muli(array(complement)).addi(1).muli(s);
    }
    return new Slope(rate);
  }

  private void multiplyBySlope(Saved saved, Tensor d, Tensor y, boolean add) {
    Tensor slope = ((Slope) saved).value.view(0, d.shape());
    ops.into(y, add, product -> array(slope).muli(array(d), product));
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
