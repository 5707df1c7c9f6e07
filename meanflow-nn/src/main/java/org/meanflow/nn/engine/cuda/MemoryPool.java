package org.meanflow.nn.engine.cuda;

import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.PriorityQueue;
import java.util.Set;

/**
 * Device memory by exact size, kept for reuse. All work is on one stream, so memory may be handed
 * out again while kernels still use it for what it was before.
 *
 * <p>Of the free blocks of a size the one with the lowest address is taken, so that a training step
 * gets the same addresses every time, whatever the order in which the last one gave them back: a
 * condition for replaying it as a graph.
 */
final class MemoryPool implements AutoCloseable {
  private static final Comparator<Block> BY_ADDRESS = Comparator.comparingLong(b -> b.address);

  private final Cuda cuda;
  private final Runnable finish;
  private final Map<Long, PriorityQueue<Block>> free = new HashMap<>();
  private final Set<Block> all = new HashSet<>();
  private long bytesHeld;

  /**
   * A pool that holds nothing.
   *
   * @param finish waits until all work on the stream is done
   */
  MemoryPool(Cuda cuda, Runnable finish) {
    this.cuda = cuda;
    this.finish = finish;
  }

  /** A block with undefined content. */
  Block allocate(long bytes) {
    long size = Math.max(16, (bytes + 15) & -16);
    PriorityQueue<Block> recycled = free.get(size);
    Block block = recycled == null ? null : recycled.poll();
    if (block != null) {
      return block;
    }
    long address = cuda.tryAllocate(size);
    if (address == 0) {
      trim();
      address = cuda.tryAllocate(size);
    }
    if (address == 0) {
      throw cuda.outOfMemory(size, bytesHeld);
    }
    bytesHeld += size;
    block = new Block(address, size);
    all.add(block);
    return block;
  }

  /** Takes a block back, and its copy. */
  void recycle(Block block) {
    Block compact = block.compact;
    if (compact != null) {
      block.compact = null;
      recycle(compact);
    }
    free.computeIfAbsent(block.bytes, size -> new PriorityQueue<>(BY_ADDRESS)).add(block);
  }

  /** Gives what is not in use back to the driver. */
  void trim() {
    finish.run();
    for (PriorityQueue<Block> blocks : free.values()) {
      blocks.forEach(this::release);
    }
    free.clear();
  }

  private void release(Block block) {
    all.remove(block);
    bytesHeld -= block.bytes;
    cuda.check(cuda.driver.cuMemFree_v2(block.address), "cuMemFree");
  }

  long bytesHeld() {
    return bytesHeld;
  }

  /** Gives everything back to the driver, whether in use or not. */
  @Override
  public void close() {
    cuda.makeCurrent();
    Set.copyOf(all).forEach(this::release);
    free.clear();
  }
}
