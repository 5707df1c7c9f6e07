package org.meanflow.nn.engine.cpu;

import java.lang.ref.Reference;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/**
 * The engine for CPUs, in float32 or with bfloat16 products. Its results do not depend on the
 * number of threads.
 */
public final class CpuEngine implements Engine {
  private final Precision precision;
  private final Memory memory = new Memory();
  private final Workers workers;
  private final Reductions reductions;
  private final Kernels kernels;

  /**
   * An engine that holds no memory yet. ND4J and OpenMP run on one thread each in this JVM from now
   * on: threads of theirs would only compete with those of the engine.
   *
   * @param precision {@link Precision#FP32} or {@link Precision#BF16}
   * @param threads threads that compute, ≥ 1
   */
  public CpuEngine(Precision precision, int threads) {
    this(precision, threads, OneDnn.hasAmx());
  }

  /**
   * The same, with a choice of how float32 is multiplied.
   *
   * @param split whether in several bfloat16 numbers where that pays
   */
  CpuEngine(Precision precision, int threads, boolean split) {
    if (threads < 1) {
      throw new IllegalArgumentException("threads must be >= 1, got " + threads);
    }
    this.precision = precision;
    Nd4j.getEnvironment().setMaxThreads(1);
    Nd4j.getEnvironment().setMaxMasterThreads(1);
    Nd4j.getNDArrayFactory().blas().setMaxThreads(1);
    workers = new Workers(threads, memory, OneDnn::useOneThread);
    Products products = new Products(memory, workers, precision == Precision.BF16, split);
    reductions = new Reductions(this, workers);
    CpuLinear linear = new CpuLinear(this, workers, products, reductions);
    CpuElementwise elementwise = new CpuElementwise(workers, reductions);
    kernels =
        new Kernels(
            linear,
            new CpuFeedForward(this, workers, linear, reductions),
            elementwise,
            new CpuNorm(this, workers, reductions),
            new CpuModulation(this, workers),
            new CpuAttention(this, workers, products, reductions),
            new CpuEmbedding(workers),
            new CpuOptimizer(workers));
  }

  @Override
  public String name() {
    return "cpu";
  }

  @Override
  public Precision precision() {
    return precision;
  }

  @Override
  public Kernels kernels() {
    return kernels;
  }

  Reductions reductions() {
    return reductions;
  }

  @Override
  public Tensor allocate(Storage storage, long... shape) {
    boolean half = storage == Storage.COMPACT && precision == Precision.BF16;
    return allocate(storage, half, shape);
  }

  /** A tensor of bfloat16 numbers. */
  CpuTensor allocateHalf(long... shape) {
    return allocate(Storage.COMPACT, true, shape);
  }

  private CpuTensor allocate(Storage storage, boolean half, long... shape) {
    long elements = Tensor.size(shape);
    Memory.Block block = memory.take(elements * (half ? Short.BYTES : Float.BYTES));
    return new CpuTensor(block, block.address, storage, half, shape.clone(), memory);
  }

  @Override
  public void write(INDArray source, Tensor target) {
    if (source.length() != target.size()) {
      throw new IllegalArgumentException(
          "source must have %d elements, got %d".formatted(target.size(), source.length()));
    }
    CpuTensor to = CpuTensor.of(target).changed();
    INDArray floats = source.castTo(DataType.FLOAT);
    boolean rowMajor =
        floats.ordering() == 'c' && !floats.isView() && floats.elementWiseStride() == 1;
    INDArray dense = rowMajor ? floats : floats.dup('c');
    int length = Math.toIntExact(target.size());
    long from = dense.data().pointer().address() + dense.offset() * Float.BYTES;
    try {
      if (to.half()) {
        Simd.narrow(from, to.address(), length);
      } else {
        Simd.copyRow(from, to.address(), length);
      }
    } finally {
      Reference.reachabilityFence(dense); // or its memory may be freed while it is read
    }
  }

  @Override
  public INDArray read(Tensor source) {
    CpuTensor from = CpuTensor.of(source);
    INDArray array = Nd4j.createUninitialized(DataType.FLOAT, source.shape().clone(), 'c');
    int length = Math.toIntExact(source.size());
    long to = array.data().pointer().address();
    if (from.half()) {
      Simd.widen(from.address(), to, length);
    } else {
      Simd.copyRow(from.address(), to, length);
    }
    return array;
  }

  @Override
  public double productMilliseconds() {
    return workers.productMilliseconds();
  }

  @Override
  public long bytesHeld() {
    return memory.bytesHeld();
  }

  /** {@return how often memory was asked of the system since the engine was made} */
  public long allocations() {
    return memory.allocations();
  }

  @Override
  public void close() {
    workers.close();
    memory.close();
  }
}
