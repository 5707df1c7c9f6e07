package org.meanflow.nn.engine.nd4j;

import static org.meanflow.nn.engine.nd4j.Nd4jOps.array;

import org.meanflow.nn.engine.OptimizerKernels;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.ops.transforms.Transforms;

/** The optimiser, one pass after the other. */
final class Nd4jOptimizer implements OptimizerKernels {
  private final Nd4jEngine engine;
  private final Nd4jElementwise elementwise;

  Nd4jOptimizer(Nd4jEngine engine, Nd4jElementwise elementwise) {
    this.engine = engine;
    this.elementwise = elementwise;
  }

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
      array(v).muli(1 / (1 - Math.pow(u.beta2(), (double) u.step())), w);
      Transforms.sqrt(w, false);
      w.addi(u.epsilon());
      array(m).divi(w, w);
      w.muli(u.rate() / (1 - Math.pow(u.beta1(), (double) u.step())));
      array(p).muli(1 - u.rate() * u.weightDecay()).subi(w);
    }
  }

  @Override
  public void movingAverage(double decay, Tensor p, Tensor average) {
    elementwise.combine(decay, average, 1 - decay, p, average);
  }
}
