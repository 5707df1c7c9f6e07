package org.meanflow.nn.engine.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.List;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.engine.cuda.LibraryFinder.Found;

/**
 * Engines on several GPUs of this machine, joined by NCCL for data-parallel training: each on a
 * thread of its own, all with the same parameters. A single GPU needs neither this nor NCCL.
 */
public final class NcclGroup implements AutoCloseable {
  private static final int FLOAT32 = 7;
  private static final int FLOAT64 = 8;
  private static final int AVERAGE = 4;

  private final NcclApi nccl;
  private final List<CudaEngine> engines;
  private final long[] communicators;
  private volatile boolean aborted;

  /**
   * Joins engines.
   *
   * @param engines one for each GPU, see {@link CudaEngineProvider#create(
   *     org.meanflow.nn.engine.Precision, String)}; their place in the list is their rank. They
   *     stay the caller's to close, after this
   * @throws CudaException if there is no NCCL, or it refuses
   */
  public NcclGroup(List<CudaEngine> engines) {
    this.engines = List.copyOf(engines);
    Found library = new LibraryFinder(LibraryFinder::setting).find(LibraryFinder.Library.NCCL, 0);
    nccl = NativeApi.bind(NcclApi.class, library.symbols(), library.where());
    try (Arena arena = Arena.ofConfined()) {
      int n = engines.size();
      MemorySegment devices = arena.allocate(ValueLayout.JAVA_INT, n);
      for (int i = 0; i < n; i++) {
        devices.setAtIndex(ValueLayout.JAVA_INT, i, engines.get(i).device());
      }
      MemorySegment made = arena.allocate(ValueLayout.JAVA_LONG, n);
      check(nccl.ncclCommInitAll(made.address(), n, devices.address()), "ncclCommInitAll");
      communicators = made.toArray(ValueLayout.JAVA_LONG);
    }
  }

  /** {@return how many GPUs there are} */
  public int size() {
    return communicators.length;
  }

  /**
   * Replaces a tensor by its mean over all GPUs, in order with the work of the engine. Each rank
   * calls this on its own thread, all with tensors of one size.
   *
   * @param rank place of the calling thread's engine
   * @param tensor of that engine, changed, the same on all GPUs afterwards; not compact
   */
  public void average(int rank, Tensor tensor) {
    CudaTensor gradients = (CudaTensor) tensor;
    if (gradients.bfloat16) {
      throw new IllegalArgumentException("compact tensors are not averaged");
    }
    gradients.block.version++;
    average(rank, gradients.address(), gradients.size(), FLOAT32);
  }

  /**
   * Replaces numbers by their mean over all GPUs, and waits for it. Each rank calls this on its own
   * thread, all with as many numbers.
   *
   * @param rank place of the calling thread's engine
   * @param values changed, the same on all GPUs afterwards
   */
  public void average(int rank, double[] values) {
    CudaEngine engine = engines.get(rank);
    MemorySegment host = MemorySegment.ofArray(values);
    // Float64 in the memory of twice as many float32.
    try (CudaTensor device = engine.floats(2L * values.length)) {
      engine.transfers().upload(host, device.address());
      average(rank, device.address(), values.length, FLOAT64);
      engine.transfers().download(device.address(), host);
      checkNotAborted(); // what came back is no mean then
    }
  }

  /**
   * Lets no GPU wait any longer for the others: averages fail from now on. Any thread may call
   * this.
   */
  public synchronized void abort() {
    if (!aborted) {
      aborted = true;
      for (long communicator : communicators) {
        check(nccl.ncclCommAbort(communicator), "ncclCommAbort");
      }
    }
  }

  private void checkNotAborted() {
    if (aborted) {
      throw new CudaException("another GPU has failed");
    }
  }

  private void average(int rank, long address, long count, int type) {
    checkNotAborted();
    CudaStream stream = engines.get(rank).stream();
    stream.submit();
    engines.get(rank).makeCurrent();
    check(
        nccl.ncclAllReduce(
            address, address, count, type, AVERAGE, communicators[rank], stream.handle()),
        "ncclAllReduce");
  }

  private void check(int result, String call) {
    if (result != 0) {
      throw new CudaException(
          "%s failed: %s (%d)"
              .formatted(call, Cuda.string(nccl.ncclGetErrorString(result)), result));
    }
  }

  @Override
  public synchronized void close() {
    if (!aborted) {
      for (long communicator : communicators) {
        check(nccl.ncclCommDestroy(communicator), "ncclCommDestroy");
      }
    }
  }
}
