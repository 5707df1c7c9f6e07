package org.meanflow.nn.engine.nd4j;

import java.util.ArrayDeque;
import java.util.Deque;
import java.util.HashMap;
import java.util.Map;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/**
 * The reference engine: every kernel composed of ND4J operations, on whatever ND4J backend is on
 * the class path, in float32 or float64.
 *
 * <p>Memory of closed tensors is kept by length and used again, since a new array costs more in
 * page faults than most operations on it.
 */
public final class Nd4jEngine implements Engine {
  private final Precision precision;
  private final Kernels kernels;
  private final Map<Long, Deque<INDArray>> free = new HashMap<>();
  private long elementsHeld;

  /**
   * An engine that holds no memory yet.
   *
   * @param precision its arithmetic
   */
  public Nd4jEngine(Precision precision) {
    this.precision = precision;
    Nd4jOps ops = new Nd4jOps(this);
    Nd4jElementwise elementwise = new Nd4jElementwise(this, ops);
    Nd4jNorm norm = new Nd4jNorm(this, ops);
    this.kernels =
        new Kernels(
            new Nd4jLinear(ops),
            elementwise,
            norm,
            new Nd4jModulation(this, ops, norm),
            new Nd4jAttention(this, ops, norm, elementwise),
            new Nd4jEmbedding(this, ops),
            new Nd4jOptimizer(this, elementwise));
  }

  @Override
  public String name() {
    return "nd4j";
  }

  @Override
  public Precision precision() {
    return precision;
  }

  @Override
  public Kernels kernels() {
    return kernels;
  }

  @Override
  public Tensor allocate(long... shape) {
    long size = Math.max(1, Tensor.size(shape));
    Deque<INDArray> recycled = free.get(size);
    INDArray flat = recycled == null ? null : recycled.pollLast();
    if (flat == null) {
      flat = Nd4j.createUninitialized(precision.dataType(), size);
      elementsHeld += size;
    }
    return new Nd4jTensor(flat, 0, shape.clone(), this);
  }

  void recycle(INDArray flat) {
    free.computeIfAbsent(flat.length(), size -> new ArrayDeque<>()).addLast(flat);
  }

  @Override
  public void write(INDArray source, Tensor target) {
    if (source.length() != target.size()) {
      throw new IllegalArgumentException(
          "source must have %d elements, got %d".formatted(target.size(), source.length()));
    }
    ((Nd4jTensor) target).array().assign(source.reshape('c', target.shape()));
  }

  @Override
  public INDArray read(Tensor source) {
    return ((Nd4jTensor) source).array().dup('c');
  }

  @Override
  public long bytesHeld() {
    return elementsHeld * precision.dataType().width();
  }

  @Override
  public void close() {
    free.clear();
  }
}
