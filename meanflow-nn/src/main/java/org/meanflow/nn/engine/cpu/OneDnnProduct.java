package org.meanflow.nn.engine.cpu;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/** A product by oneDNN's matmul primitive. */
final class OneDnnProduct implements Product {
  /** Of {@code dnnl_exec_arg_t}: an int, padding, a pointer. */
  private static final int ARGUMENT_BYTES = 16;

  private static final int SCRATCH_SLOT = 0;

  private final long primitive;
  private final long scratchBytes;
  private final boolean bias;
  private final Arguments[] arguments;

  /** The memory objects of one thread; they hold addresses, so threads can't share them. */
  private record Arguments(
      long a, long b, long bias, long c, long scratchpad, long list, int count) {}

  /**
   * Compiles a product.
   *
   * @param spec its shapes and layouts
   * @param threads threads that may run it
   */
  OneDnnProduct(Spec spec, int threads) {
    OneDnn.useOneThread();
    long a = spec.a().descriptor(spec.batch(), spec.m(), spec.k());
    long b = spec.b().descriptor(spec.batch(), spec.k(), spec.n());
    long c = spec.c().descriptor(spec.batch(), spec.m(), spec.n());
    bias = spec.bias();
    long row = bias ? OneDnn.matrix(OneDnn.F32, 1, spec.n(), spec.n(), 1) : 0;
    int cType = spec.c().half() ? OneDnn.BF16 : OneDnn.F32;
    long description = OneDnn.matmul(a, b, row, c, OneDnn.attributes(spec.add(), cType));
    primitive = OneDnn.primitive(description);
    long scratch = OneDnn.query(description, OneDnn.QUERY_SCRATCHPAD);
    scratchBytes = OneDnn.size(scratch);
    arguments = new Arguments[threads];
    for (int i = 0; i < threads; i++) {
      arguments[i] = arguments(a, b, row, c, scratch);
    }
  }

  private Arguments arguments(long a, long b, long row, long c, long scratch) {
    long[] memories = {
      OneDnn.memory(a),
      OneDnn.memory(b),
      OneDnn.memory(c),
      OneDnn.memory(scratch),
      bias ? OneDnn.memory(row) : 0
    };
    int[] kinds = {OneDnn.SRC, OneDnn.WEIGHTS, OneDnn.DST, OneDnn.SCRATCHPAD, OneDnn.BIAS};
    int count = bias ? kinds.length : kinds.length - 1;
    MemorySegment list = Arena.global().allocate((long) count * ARGUMENT_BYTES, Long.BYTES);
    for (int i = 0; i < count; i++) {
      list.set(ValueLayout.JAVA_INT, (long) i * ARGUMENT_BYTES, kinds[i]);
      list.set(ValueLayout.JAVA_LONG, (long) i * ARGUMENT_BYTES + Long.BYTES, memories[i]);
    }
    return new Arguments(
        memories[0], memories[1], memories[4], memories[2], memories[3], list.address(), count);
  }

  @Override
  public void run(Scratch scratch, long a, long b, long biasRow, long c) {
    Arguments mine = arguments[scratch.worker];
    OneDnn.point(mine.a, a);
    OneDnn.point(mine.b, b);
    OneDnn.point(mine.c, c);
    OneDnn.point(mine.scratchpad, scratch.bytes(SCRATCH_SLOT, scratchBytes));
    if (bias) {
      OneDnn.point(mine.bias, biasRow);
    }
    OneDnn.execute(primitive, mine.count, mine.list);
  }
}
