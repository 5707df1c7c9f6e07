package org.meanflow.nn.engine.cpu;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/** Copies one matrix into another layout and type, by oneDNN's reorder primitive. */
final class Reorder {
  private static final int SCRATCH_SLOT = 0;

  private final long primitive;
  private final long scratchBytes;
  private final Memory.Block target;
  private final long[] scratchpads;
  private final long[] lists;

  Reorder(long from, long source, long to, Memory.Block target, int threads) {
    this.target = target;
    OneDnn.useOneThread();
    long description = OneDnn.reorder(from, to, OneDnn.attributes(false, OneDnn.F32));
    primitive = OneDnn.primitive(description);
    long scratch = OneDnn.query(description, OneDnn.QUERY_SCRATCHPAD);
    scratchBytes = OneDnn.size(scratch);
    long in = OneDnn.memory(from);
    long out = OneDnn.memory(to);
    OneDnn.point(in, source);
    OneDnn.point(out, target.address);
    scratchpads = new long[threads];
    lists = new long[threads];
    for (int i = 0; i < threads; i++) {
      scratchpads[i] = OneDnn.memory(scratch);
      MemorySegment list = Arena.global().allocate(3 * 16, Long.BYTES);
      set(list, 0, OneDnn.SRC, in);
      set(list, 1, OneDnn.DST, out);
      set(list, 2, OneDnn.SCRATCHPAD, scratchpads[i]);
      lists[i] = list.address();
    }
  }

  private static void set(MemorySegment list, int index, int kind, long memory) {
    list.set(ValueLayout.JAVA_INT, index * 16L, kind);
    list.set(ValueLayout.JAVA_LONG, index * 16L + Long.BYTES, memory);
  }

  /** The memory that is written. */
  Memory.Block target() {
    return target;
  }

  void run(Scratch scratch) {
    OneDnn.point(scratchpads[scratch.worker], scratch.bytes(SCRATCH_SLOT, scratchBytes));
    OneDnn.execute(primitive, 3, lists[scratch.worker]);
  }
}
