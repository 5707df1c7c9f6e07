package org.meanflow.nn.engine.cuda;

import java.lang.foreign.MemorySegment;
import java.lang.ref.Reference;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.api.shape.Shape;
import org.nd4j.linalg.factory.Nd4j;

/**
 * The engine for NVIDIA GPUs of compute capability 8.0 or newer, in float32, TF32 and bfloat16:
 * fused kernels compiled for the GPU at hand when they are first used, and products of matrices by
 * cuBLASLt. It needs a driver, NVRTC and cuBLASLt of CUDA 11.8 or newer, and nothing else.
 */
public final class CudaEngine implements Engine {
  private final Cuda cuda;
  private final Precision precision;
  private final CudaStream stream;
  private final MemoryPool pool;
  private final Transfers transfers;
  private final Products products;
  private final Kernels kernels;
  private boolean closed;

  CudaEngine(Cuda cuda, Precision precision, boolean graphs) {
    this(cuda, precision, graphs, fusesGelu(cuda, precision));
  }

  CudaEngine(Cuda cuda, Precision precision, boolean graphs, boolean fusedGelu) {
    this.cuda = cuda;
    this.precision = precision;
    // Nothing that ND4J does beside a GPU is worth waking threads that spin afterwards.
    Nd4j.getEnvironment().setMaxThreads(1);
    Nd4j.getEnvironment().setMaxMasterThreads(1);
    this.stream = new CudaStream(cuda, graphs);
    this.pool = new MemoryPool(cuda, stream::finish);
    this.transfers = new Transfers(cuda, stream, pool);
    this.products = new Products(cuda, stream, pool, precision);
    CudaElementwise elementwise = new CudaElementwise(this);
    CudaNorm norm = new CudaNorm(this);
    CudaLinear linear = new CudaLinear(this, elementwise, products);
    this.kernels =
        new Kernels(
            linear,
            new CudaFeedForward(this, linear, elementwise, products, fusedGelu),
            elementwise,
            norm,
            new CudaModulation(this, norm),
            new CudaAttention(this, norm),
            new CudaEmbedding(this),
            new CudaOptimizer(this));
  }

  /**
   * Whether cuBLASLt takes the GELU of a feed-forward network if nothing is said: not in float32,
   * for how exact its tanh is nobody promises; and on Hopper and newer alone, since on older GPUs
   * others measured no gain.
   */
  private static boolean fusesGelu(Cuda cuda, Precision precision) {
    return precision != Precision.FP32 && cuda.architecture >= 90;
  }

  @Override
  public String name() {
    return "cuda";
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
  public CudaTensor allocate(Storage storage, long... shape) {
    boolean bfloat16 = storage == Storage.COMPACT && precision == Precision.BF16;
    return new CudaTensor(
        pool.allocate(Tensor.size(shape) * (bfloat16 ? 2 : 4)), 0, bfloat16, shape.clone(), this);
  }

  /** A tensor of float32, for the inner life of a kernel. */
  CudaTensor floats(long... shape) {
    return allocate(Storage.FULL, shape);
  }

  void recycle(Block block) {
    if (!closed) {
      pool.recycle(block);
    }
  }

  /** Begins the launch of a kernel. */
  CudaStream launch(String source, String kernel) {
    return stream.kernel(cuda.kernels.get(source, kernel));
  }

  CudaStream stream() {
    return stream;
  }

  KernelSet kernelSet() {
    return cuda.kernels;
  }

  Transfers transfers() {
    return transfers;
  }

  /** A copy in bfloat16, the caller's to close; a view on the tensor itself if it is that. */
  CudaTensor compact(CudaTensor tensor) {
    if (tensor.bfloat16 || precision != Precision.BF16) {
      return tensor.view(0, tensor.shape());
    }
    CudaTensor copy = allocate(Storage.COMPACT, tensor.shape());
    convert(tensor, copy);
    return copy;
  }

  /**
   * A bfloat16 view of a parameter: of a copy of its whole block, which is made anew only once the
   * block has changed.
   */
  CudaTensor compactParameter(CudaTensor parameter) {
    if (parameter.bfloat16 || precision != Precision.BF16) {
      return parameter;
    }
    Block block = parameter.block;
    Block compact = block.compact;
    if (compact == null) {
      compact = pool.allocate(block.bytes / 2);
      block.compact = compact;
      block.compactVersion = block.version - 1;
    }
    if (block.compactVersion != block.version) {
      long n = block.bytes / 4;
      convert(
          new CudaTensor(block, 0, false, new long[] {n}, null),
          new CudaTensor(compact, 0, true, new long[] {n}, null));
      block.compactVersion = block.version;
    }
    return new CudaTensor(compact, parameter.offset, true, parameter.shape(), null);
  }

  private void convert(CudaTensor source, CudaTensor target) {
    kernels.elementwise().scale(1, source, target, false);
  }

  @Override
  public void write(INDArray source, Tensor target) {
    if (source.length() != target.size()) {
      throw new IllegalArgumentException(
          "source must have %d elements, got %d".formatted(target.size(), source.length()));
    }
    CudaTensor to = (CudaTensor) target;
    if (to.bfloat16) {
      try (CudaTensor full = floats(to.shape())) {
        write(source, full);
        convert(full, to);
      }
      return;
    }
    INDArray array = source.castTo(DataType.FLOAT);
    if (array.isView() || array.ordering() != 'c' || !Shape.hasDefaultStridesForShape(array)) {
      array = array.dup('c');
    }
    to.block.version++;
    try {
      transfers.upload(memory(array), to.address());
    } finally {
      Reference.reachabilityFence(array);
    }
  }

  @Override
  public INDArray read(Tensor source) {
    CudaTensor from = (CudaTensor) source;
    if (from.bfloat16) {
      try (CudaTensor full = floats(from.shape())) {
        convert(from, full);
        return read(full);
      }
    }
    INDArray array = Nd4j.createUninitialized(DataType.FLOAT, from.shape(), 'c');
    try {
      transfers.download(from.address(), memory(array));
      return array;
    } finally {
      Reference.reachabilityFence(array);
    }
  }

  /** The elements of a contiguous float32 array in host memory. */
  private static MemorySegment memory(INDArray array) {
    return MemorySegment.ofAddress(array.data().address()).reinterpret(4 * array.length());
  }

  @Override
  public void finish() {
    stream.finish();
  }

  @Override
  public long bytesHeld() {
    return pool.bytesHeld();
  }

  /** The number of the GPU. */
  int device() {
    return cuda.ordinal;
  }

  void makeCurrent() {
    cuda.makeCurrent();
  }

  /** {@return the GPU and the libraries that this engine runs on} */
  @Override
  public String toString() {
    return "cuda engine on " + cuda.description();
  }

  @Override
  public void close() {
    if (closed) {
      return;
    }
    closed = true;
    try (pool;
        stream;
        transfers;
        products) {
      stream.finish();
    }
  }
}
