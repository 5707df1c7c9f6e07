package org.meanflow.nn.engine.nd4j;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Deque;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.meanflow.nn.engine.ComposedFeedForward;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/**
 * The reference engine: every kernel composed of ND4J operations, on whatever ND4J backend is on
 * the class path, in float32 or float64.
 *
 * <p>Memory of closed tensors is kept by length and used again, since a new array costs more in
 * page faults than most operations on it.
 *
 * <p>Batches are computed in shards, one for each processor: an ND4J operation gains little from
 * threads of its own, and the thread pools of OpenMP and OpenBLAS get in each other's way.
 */
public final class Nd4jEngine implements Engine {
  private final Precision precision;
  private final Kernels kernels;
  private final Map<Long, Deque<INDArray>> free = new HashMap<>();
  private final List<Engine> team = new ArrayList<>();
  private long elementsHeld;

  /**
   * An engine that holds no memory yet.
   *
   * @param precision its arithmetic
   * @param threads how many shards of a batch are computed at the same time, ≥ 1. With more than
   *     one, each ND4J operation of this JVM runs on one thread from now on; with one, ND4J keeps
   *     its own threads
   */
  public Nd4jEngine(Precision precision, int threads) {
    this(precision);
    if (threads < 1) {
      throw new IllegalArgumentException("threads must be >= 1, got " + threads);
    }
    for (int i = 1; i < threads; i++) {
      team.add(new Nd4jEngine(precision));
    }
    if (threads > 1) {
      Nd4j.getEnvironment().setMaxThreads(1);
      Nd4j.getEnvironment().setMaxMasterThreads(1);
      Nd4j.getNDArrayFactory().blas().setMaxThreads(1);
    }
  }

  private Nd4jEngine(Precision precision) {
    team.add(this);
    this.precision = precision;
    Nd4jOps ops = new Nd4jOps(this);
    Nd4jElementwise elementwise = new Nd4jElementwise(this, ops);
    Nd4jNorm norm = new Nd4jNorm(this, ops);
    Nd4jLinear linear = new Nd4jLinear(ops);
    this.kernels =
        new Kernels(
            linear,
            new ComposedFeedForward(this, linear, elementwise),
            elementwise,
            norm,
            new Nd4jModulation(this, ops, norm),
            new Nd4jAttention(this, ops, norm, elementwise),
            new Nd4jEmbedding(this, ops),
            new Nd4jOptimizer(this));
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
  public Tensor allocate(Storage storage, long... shape) {
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
  public List<Engine> team() {
    return Collections.unmodifiableList(team);
  }

  @Override
  public long bytesHeld() {
    long bytes = elementsHeld * precision.dataType().width();
    for (Engine member : team.subList(1, team.size())) {
      bytes += member.bytesHeld();
    }
    return bytes;
  }

  @Override
  public void close() {
    free.clear();
    team.subList(1, team.size()).forEach(Engine::close);
  }
}
