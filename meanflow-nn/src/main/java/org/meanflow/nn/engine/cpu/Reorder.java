package org.meanflow.nn.engine.cpu;

/** Copies matrices of one shape into another layout and type, by oneDNN's reorder primitive. */
final class Reorder {
  private static final int SCRATCH_SLOT = 0;

  private final long primitive;
  private final long scratchBytes;
  private final Arguments[] arguments;

  /** The memory objects of one thread. */
  private record Arguments(long from, long to, long scratchpad, long list) {}

  /**
   * Compiles a reorder.
   *
   * @param from oneDNN's descriptor of the source
   * @param to oneDNN's descriptor of the target
   * @param threads threads that may run it
   */
  Reorder(long from, long to, int threads) {
    OneDnn.useOneThread();
    long description = OneDnn.reorder(from, to, OneDnn.attributes(false, OneDnn.F32));
    primitive = OneDnn.primitive(description);
    long scratch = OneDnn.query(description, OneDnn.QUERY_SCRATCHPAD);
    scratchBytes = OneDnn.size(scratch);
    arguments = new Arguments[threads];
    for (int i = 0; i < threads; i++) {
      long source = OneDnn.memory(from);
      long target = OneDnn.memory(to);
      long scratchpad = OneDnn.memory(scratch);
      int[] kinds = {OneDnn.SRC, OneDnn.DST, OneDnn.SCRATCHPAD};
      long list = OneDnn.arguments(kinds, new long[] {source, target, scratchpad});
      arguments[i] = new Arguments(source, target, scratchpad, list);
    }
  }

  void run(Scratch scratch, long from, long to) {
    Arguments mine = arguments[scratch.worker];
    OneDnn.point(mine.from, from);
    OneDnn.point(mine.to, to);
    OneDnn.point(mine.scratchpad, scratch.bytes(SCRATCH_SLOT, scratchBytes));
    OneDnn.execute(primitive, 3, mine.list);
  }
}
