package org.meanflow.nn.engine.cpu;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * What belongs to one thread: work memory in numbered slots that grow as needed and keep their
 * size, and a watch for the time in products.
 */
final class Scratch {
  private final Memory memory;
  private final List<Memory.@Nullable Block> slots = new ArrayList<>();
  private boolean watched;
  private long productNanos;

  /** Number of the thread, from 0. */
  final int worker;

  Scratch(int worker, Memory memory) {
    this.worker = worker;
    this.memory = memory;
  }

  /**
   * Begins what is part of a product.
   *
   * @return for {@link #endProduct}
   */
  long beginProduct() {
    return watched ? System.nanoTime() : 0;
  }

  void endProduct(long begin) {
    if (watched) {
      productNanos += System.nanoTime() - begin;
    }
  }

  /** The time between beginnings and ends since the first call. Not to be called within a loop. */
  long productNanos() {
    watched = true;
    return productNanos;
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
