package org.meanflow.nn.engine.cpu;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** Work memory of one thread: numbered slots that grow as needed and keep their size. */
final class Scratch {
  private final Memory memory;
  private final List<Memory.@Nullable Block> slots = new ArrayList<>();

  /** Number of the thread, from 0. */
  final int worker;

  Scratch(int worker, Memory memory) {
    this.worker = worker;
    this.memory = memory;
  }

  /**
   * The address of a slot; its content is undefined.
   *
   * @param slot number of the slot
   * @param floats its least length
   */
  long floats(int slot, long floats) {
    return bytes(slot, floats * Float.BYTES);
  }

  /** The address of a slot of at least {@code bytes}. */
  long bytes(int slot, long bytes) {
    while (slots.size() <= slot) {
      slots.add(null);
    }
    Memory.Block block = slots.get(slot);
    if (block == null || block.bytes < bytes) {
      if (block != null) {
        memory.giveBack(block);
      }
      block = memory.take(bytes);
      slots.set(slot, block);
    }
    return block.address;
  }
}
