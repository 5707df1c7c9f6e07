package org.meanflow.nn.engine.cpu;

import java.util.Arrays;

/** A product by oneDNN's matmul primitive. */
final class OneDnnProduct implements Product {
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
    long aMemory = OneDnn.memory(a);
    long bMemory = OneDnn.memory(b);
    long cMemory = OneDnn.memory(c);
    long scratchpad = OneDnn.memory(scratch);
    long biasMemory = bias ? OneDnn.memory(row) : 0;
    int[] kinds = {OneDnn.SRC, OneDnn.WEIGHTS, OneDnn.DST, OneDnn.SCRATCHPAD, OneDnn.BIAS};
    long[] memories = {aMemory, bMemory, cMemory, scratchpad, biasMemory};
    int count = bias ? kinds.length : kinds.length - 1;
    long list = OneDnn.arguments(Arrays.copyOf(kinds, count), memories);
    return new Arguments(aMemory, bMemory, biasMemory, cMemory, scratchpad, list, count);
  }

  @Override
  public void compute(Scratch scratch, long a, long b, long biasRow, long c) {
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
