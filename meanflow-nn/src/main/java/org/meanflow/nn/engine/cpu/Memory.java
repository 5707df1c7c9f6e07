package org.meanflow.nn.engine.cpu;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Off-heap memory that is allocated once and used again: blocks given back are kept by length. A
 * training step whose shapes do not change allocates nothing after the first.
 *
 * <p>The system is asked for huge pages: with the usual ones of 4 KB, products of wide matrices
 * spend their time in misses of the translation buffer.
 */
final class Memory implements AutoCloseable {
  /** All kernels may read and write whole vectors of 64 bytes beyond the last element. */
  private static final long PADDING = 64;

  private static final long HUGE_PAGE = 2 << 20;

  /** What smaller blocks are cut from. */
  private static final long CHUNK = 16 * HUGE_PAGE;

  private static final int MADV_HUGEPAGE = 14;
  private static final Linker LINKER = Linker.nativeLinker();

  private final Map<Long, Deque<Block>> free = new HashMap<>();
  private final List<Long> allocated = new ArrayList<>();
  private long chunkNext;
  private long chunkEnd;
  private long bytesHeld;
  private long allocations;

  /** A piece of memory with what is derived from its content. */
  static final class Block {
    final long address;
    final long bytes;

    /** Counts the writes by kernels that change parameters. */
    long version;

    /** Weights in the layouts that products want, by address and use. */
    final Map<PackedWeight.Key, PackedWeight> packed = new HashMap<>();

    private Block(long address, long bytes) {
      this.address = address;
      this.bytes = bytes;
    }
  }

  /**
   * A block with undefined content.
   *
   * @param bytes its least length
   */
  synchronized Block take(long bytes) {
    long length = Math.max(1, Math.ceilDiv(bytes, PADDING)) * PADDING + PADDING;
    Deque<Block> kept = free.get(length);
    Block block = kept == null ? null : kept.pollLast();
    return block != null ? block : allocate(length);
  }

  /** Keeps a block for the next {@link #take} of its length. */
  synchronized void giveBack(Block block) {
    block.packed.values().forEach(PackedWeight::close);
    block.packed.clear();
    free.computeIfAbsent(block.bytes, length -> new ArrayDeque<>()).addLast(block);
  }

  /** Large blocks are allocated by themselves, others are cut from a chunk. */
  private Block allocate(long length) {
    bytesHeld += length;
    allocations++;
    if (length >= CHUNK / 2) {
      return new Block(allocateHuge(length), length);
    }
    if (length > chunkEnd - chunkNext) {
      chunkNext = allocateHuge(CHUNK);
      chunkEnd = chunkNext + CHUNK;
    }
    Block block = new Block(chunkNext, length);
    chunkNext += length;
    return block;
  }

  private long allocateHuge(long length) {
    long whole = Math.ceilDiv(length, HUGE_PAGE) * HUGE_PAGE;
    long address = SystemCalls.allocate(whole, HUGE_PAGE);
    SystemCalls.useHugePages(address, whole);
    allocated.add(address);
    return address;
  }

  /** {@return bytes of all blocks, in use or kept} */
  synchronized long bytesHeld() {
    return bytesHeld;
  }

  /** {@return how often memory was asked of the system} */
  synchronized long allocations() {
    return allocations;
  }

  @Override
  public synchronized void close() {
    allocated.forEach(SystemCalls::release);
    allocated.clear();
    free.clear();
  }

  /** The C library: unlike an arena, it hands out memory that was not touched yet. */
  private static final class SystemCalls {
    private static final ValueLayout.OfLong WORD = ValueLayout.JAVA_LONG;
    private static final MethodHandle POSIX_MEMALIGN =
        call(
            "posix_memalign",
            FunctionDescriptor.of(ValueLayout.JAVA_INT, ValueLayout.ADDRESS, WORD, WORD));
    private static final MethodHandle FREE = call("free", FunctionDescriptor.ofVoid(WORD));
    private static final MethodHandle MADVISE =
        call(
            "madvise",
            FunctionDescriptor.of(ValueLayout.JAVA_INT, WORD, WORD, ValueLayout.JAVA_INT));

    private static MethodHandle call(String name, FunctionDescriptor type) {
      return LINKER.downcallHandle(LINKER.defaultLookup().findOrThrow(name), type);
    }

    static long allocate(long bytes, long alignment) {
      try (Arena arena = Arena.ofConfined()) {
        MemorySegment result = arena.allocate(WORD);
        int status = (int) POSIX_MEMALIGN.invokeExact(result, alignment, bytes);
        if (status != 0) {
          throw new OutOfMemoryError("no " + bytes + " bytes of memory left for a tensor");
        }
        return result.get(WORD, 0);
      } catch (RuntimeException | Error e) {
        throw e;
      } catch (Throwable e) {
        throw new IllegalStateException("posix_memalign failed", e);
      }
    }

    static void useHugePages(long address, long bytes) {
      try {
        int _ = (int) MADVISE.invokeExact(address, bytes, MADV_HUGEPAGE); // only advice
      } catch (RuntimeException | Error e) {
        throw e;
      } catch (Throwable e) {
        throw new IllegalStateException("madvise failed", e);
      }
    }

    static void release(long address) {
      try {
        FREE.invokeExact(address);
      } catch (RuntimeException | Error e) {
        throw e;
      } catch (Throwable e) {
        throw new IllegalStateException("free failed", e);
      }
    }
  }
}
