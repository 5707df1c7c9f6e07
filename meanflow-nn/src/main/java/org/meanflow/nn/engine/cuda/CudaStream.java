package org.meanflow.nn.engine.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The one queue of work of an engine. Work is noted first and submitted in runs of up to {@value
 * #RUN} operations: a run that is word for word the same as an earlier one (the same kernels,
 * shapes, numbers and addresses, as in every step of a training after the first) is replayed as a
 * CUDA graph, with one call. All others are launched one by one.
 */
final class CudaStream implements AutoCloseable {
  private static final Logger log = LoggerFactory.getLogger(CudaStream.class);

  /** Long enough that a replay saves calls, short enough that the GPU starts soon. */
  private static final int RUN = 64;

  /** Runs that are remembered; the one that was not seen for the longest time is forgotten. */
  private static final int RUNS = 1024;

  private static final int MAX_ARGUMENTS = 32;
  static final int NON_BLOCKING = 1;
  private static final int CAPTURE_THREAD_LOCAL = 1;

  /** What stands before the arguments of an operation: what, count, grid, block, shared memory. */
  private static final int HEADER = 6;

  private final Cuda cuda;
  private final Arena arena = Arena.ofShared();
  private final long stream;

  /** Arguments of a launch, 16 bytes each, and pointers to them. */
  private final MemorySegment slots = arena.allocate(16L * MAX_ARGUMENTS, 16);

  private final MemorySegment pointers = arena.allocate(8L * MAX_ARGUMENTS, 16);

  private final Map<Long, Kernel> kernels = new HashMap<>();
  private final List<Product> products = new ArrayList<>();
  private final LinkedHashMap<Words, Run> runs = new LinkedHashMap<>(64, 0.75f, true);
  private long[] words = new long[RUN * (HEADER + 2 * MAX_ARGUMENTS)];
  private int length;
  private int operations;
  private int start;
  private boolean graphs;
  private long graphLaunches;

  /** A product of matrices with everything but its addresses; executes on {@link #handle}. */
  interface Product {
    void execute(long a, long b, long d, long vector, long matrix, boolean add);
  }

  /** The words of a run, compared by content. */
  private record Words(long[] words, int hash) {
    @Override
    public boolean equals(@Nullable Object other) {
      return other instanceof Words w && hash == w.hash && Arrays.equals(words, w.words);
    }

    @Override
    public int hashCode() {
      return hash;
    }
  }

  /** A run that was submitted before, and its graph from the second time on. */
  private static final class Run {
    long executable;
  }

  CudaStream(Cuda cuda, boolean graphs) {
    this.cuda = cuda;
    this.graphs = graphs;
    cuda.makeCurrent();
    this.stream =
        cuda.longOf(out -> cuda.driver.cuStreamCreate(out, NON_BLOCKING), "cuStreamCreate");
    for (int i = 0; i < MAX_ARGUMENTS; i++) {
      pointers.setAtIndex(ValueLayout.JAVA_LONG, i, slots.address() + 16L * i);
    }
  }

  /** The driver's handle of this stream. */
  long handle() {
    return stream;
  }

  /** {@return how many runs were replayed as graphs so far} */
  long graphLaunches() {
    return graphLaunches;
  }

  /** The number of an operation that {@link #product} can queue. */
  int register(Product product) {
    products.add(product);
    return products.size() - 1;
  }

  /** Begins a launch; its arguments follow in order, and then {@link #launch}. */
  CudaStream kernel(Kernel kernel) {
    kernels.putIfAbsent(kernel.function(), kernel);
    start = length;
    words[start] = kernel.function();
    length += HEADER;
    return this;
  }

  private CudaStream argument(long low, long high) {
    words[length++] = low;
    words[length++] = high;
    return this;
  }

  /** A tensor that is read; {@code null} for none. */
  CudaStream in(@Nullable CudaTensor tensor) {
    return tensor == null ? argument(0, 0) : argument(tensor.address(), tensor.bfloat16 ? 1 : 0);
  }

  /** A tensor that is written; {@code null} for none. */
  CudaStream out(@Nullable CudaTensor tensor) {
    if (tensor != null) {
      tensor.block.version++;
    }
    return in(tensor);
  }

  /** A plain pointer; {@code null} for none. */
  CudaStream pointer(@Nullable CudaTensor tensor) {
    return argument(tensor == null ? 0 : tensor.address(), 0);
  }

  /** A plain pointer to memory that is written; {@code null} for none. */
  CudaStream written(@Nullable CudaTensor tensor) {
    if (tensor != null) {
      tensor.block.version++;
    }
    return pointer(tensor);
  }

  CudaStream i32(int value) {
    return argument(Integer.toUnsignedLong(value), 0);
  }

  CudaStream i32(boolean value) {
    return i32(value ? 1 : 0);
  }

  CudaStream i64(long value) {
    return argument(value, 0);
  }

  CudaStream f32(double value) {
    return i32(Float.floatToRawIntBits((float) value));
  }

  CudaStream f64(double value) {
    return argument(Double.doubleToRawLongBits(value), 0);
  }

  /** Ends a launch that began with {@link #kernel}; nothing happens for an empty grid. */
  void launch(long gridX, long gridY, long gridZ, int block, int sharedBytes) {
    if (gridX == 0 || gridY == 0 || gridZ == 0) {
      length = start;
      return;
    }
    int arguments = (length - start - HEADER) / 2;
    words[start + 1] = arguments;
    words[start + 2] = gridX;
    words[start + 3] = gridY << 32 | gridZ;
    words[start + 4] = block;
    words[start + 5] = sharedBytes;
    noted();
  }

  /** A launch of one thread or more for each of n elements, which loop over what is left. */
  void launchFlat(long n) {
    launch(n == 0 ? 0 : Math.clamp(ceilDiv(n, 1024), 1, 16L * cuda.multiprocessors), 1, 1, 256, 0);
  }

  /** A launch of a warp for each row. */
  void launchRows(long rows) {
    launch(ceilDiv(rows, 4), 1, 1, 128, 0);
  }

  static long ceilDiv(long n, long d) {
    return (n + d - 1) / d;
  }

  /** Queues a product of matrices. */
  void product(int product, long a, long b, long d, long vector, long matrix, boolean add) {
    start = length;
    words[start] = 0;
    words[start + 1] = product;
    words[start + 2] = a;
    words[start + 3] = b;
    words[start + 4] = d;
    words[start + 5] = vector;
    length += HEADER;
    argument(add ? 1 : 0, matrix);
    noted();
  }

  private void noted() {
    operations++;
    if (!graphs || operations == RUN) {
      submit();
    }
  }

  /** Gives the driver all work that was queued. */
  void submit() {
    if (operations == 0) {
      return;
    }
    cuda.makeCurrent();
    int end = length;
    // Whatever happens, the queue is empty afterwards.
    length = 0;
    int count = operations;
    operations = 0;
    if (!graphs || count < 4) {
      execute(end);
      return;
    }
    long[] content = Arrays.copyOf(words, end);
    Words key = new Words(content, Arrays.hashCode(content));
    Run run = runs.get(key);
    if (run == null) {
      execute(end);
      runs.put(key, new Run());
      forget(RUNS);
      return;
    }
    if (run.executable == 0) {
      run.executable = capture(end);
    }
    if (run.executable == 0) {
      execute(end);
    } else {
      cuda.check(cuda.driver.cuGraphLaunch(run.executable, stream), "cuGraphLaunch");
      graphLaunches++;
    }
  }

  private void forget(int kept) {
    Iterator<Run> oldest = runs.values().iterator();
    while (runs.size() > kept) {
      Run run = oldest.next();
      if (run.executable != 0) {
        cuda.check(cuda.driver.cuGraphExecDestroy(run.executable), "cuGraphExecDestroy");
      }
      oldest.remove();
    }
  }

  /** Makes a graph of the noted work, or, where that fails, makes none and tries no more. */
  private long capture(int end) {
    try {
      cuda.check(
          cuda.driver.cuStreamBeginCapture_v2(stream, CAPTURE_THREAD_LOCAL),
          "cuStreamBeginCapture");
      CudaException failure = null;
      try {
        execute(end);
      } catch (CudaException e) {
        failure = e;
      }
      long graph =
          cuda.longOf(out -> cuda.driver.cuStreamEndCapture(stream, out), "cuStreamEndCapture");
      if (failure != null) {
        throw failure;
      }
      try {
        return cuda.longOf(
            out -> cuda.driver.cuGraphInstantiateWithFlags(out, graph, 0),
            "cuGraphInstantiateWithFlags");
      } finally {
        cuda.check(cuda.driver.cuGraphDestroy(graph), "cuGraphDestroy");
      }
    } catch (CudaException e) {
      graphs = false;
      log.warn(
          "no CUDA graphs from here on, each kernel is launched by itself: {}", e.getMessage());
      return 0;
    }
  }

  private void execute(int end) {
    int at = 0;
    while (at < end) {
      if (words[at] == 0) {
        products
            .get((int) words[at + 1])
            .execute(
                words[at + 2],
                words[at + 3],
                words[at + 4],
                words[at + 5],
                words[at + 7],
                words[at + 6] != 0);
        at += HEADER + 2;
        continue;
      }
      int arguments = (int) words[at + 1];
      MemorySegment.copy(words, at + HEADER, slots, ValueLayout.JAVA_LONG, 0, 2 * arguments);
      int result =
          cuda.driver.cuLaunchKernel(
              words[at],
              (int) words[at + 2],
              (int) (words[at + 3] >>> 32),
              (int) words[at + 3],
              (int) words[at + 4],
              1,
              1,
              (int) words[at + 5],
              stream,
              pointers.address(),
              0);
      if (result != 0) {
        throw cuda.failure(result, "launch of kernel " + describe(at));
      }
      at += HEADER + 2 * arguments;
    }
  }

  private String describe(int at) {
    Kernel kernel = kernels.get(words[at]);
    return "%s (grid %d x %d x %d, block %d, %d bytes of shared memory)"
        .formatted(
            kernel == null ? "?" : kernel.name(),
            words[at + 2],
            words[at + 3] >>> 32,
            (int) words[at + 3],
            words[at + 4],
            words[at + 5]);
  }

  /** Waits until all work is done. */
  void finish() {
    submit();
    cuda.makeCurrent();
    cuda.check(cuda.driver.cuStreamSynchronize(stream), "cuStreamSynchronize");
  }

  @Override
  public void close() {
    length = 0;
    operations = 0;
    cuda.makeCurrent();
    forget(0);
    cuda.check(cuda.driver.cuStreamDestroy_v2(stream), "cuStreamDestroy");
    arena.close();
  }
}
