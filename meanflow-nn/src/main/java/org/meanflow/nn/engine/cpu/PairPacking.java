package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;
import static org.meanflow.nn.engine.cpu.Simd.load;

import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorOperators;

/**
 * float32 rows to the layout of bfloat16 weights that oneDNN prefers on processors with AMX: blocks
 * of 64 columns, in each the rows in pairs, the two numbers of a column beside each other. oneDNN's
 * own reorder takes twice as long.
 */
final class PairPacking {
  private static final int BLOCK = 32;

  /** Rows are padded with zeros to whole blocks of so many. */
  private static final int ROWS = 32;

  private PairPacking() {}

  /**
   * Whether a layout is the one that {@link #pack} writes: found by packing numbers both ways.
   *
   * @param rows of the matrix
   * @param columns of the matrix
   * @param layout that oneDNN chose
   * @param reorder into that layout, from rows of {@code columns} floats
   * @param memory for the trial
   */
  static boolean isLayout(
      long rows,
      long columns,
      Product.Layout layout,
      Reorder reorder,
      Scratch scratch,
      Memory memory) {
    if (rows % ROWS != 0
        || columns % BLOCK != 0
        || BLOCK % LANES != 0
        || layout.bytes() != rows * columns * Short.BYTES) {
      return false;
    }
    Memory.Block source = memory.take(rows * columns * Float.BYTES);
    Memory.Block expected = memory.take(layout.bytes());
    Memory.Block actual = memory.take(layout.bytes());
    for (long i = 0; i < rows * columns; i++) {
      // Neighbours in every direction differ, in bits that bfloat16 keeps.
      float number = (i % columns * 37 + i / columns * 101) % 251;
      Simd.set(source.address + i * Float.BYTES, number);
    }
    reorder.run(scratch, source.address, expected.address);
    pack(source.address, columns, rows, columns, actual.address);
    boolean same =
        MemorySegment.mismatch(
                Simd.ALL,
                expected.address,
                expected.address + layout.bytes(),
                Simd.ALL,
                actual.address,
                actual.address + layout.bytes())
            < 0;
    memory.giveBack(source);
    memory.giveBack(expected);
    memory.giveBack(actual);
    return same;
  }

  /**
   * Packs.
   *
   * @param from address of the first row, float32
   * @param stride elements between rows
   * @param rows a multiple of 32
   * @param columns a multiple of 32
   * @param to address of the packed matrix
   */
  static void pack(long from, long stride, long rows, long columns, long to) {
    long rowBytes = stride * Float.BYTES;
    long blockBytes = rows * BLOCK * Short.BYTES;
    for (long row = 0; row < rows; row += 2) {
      long first = from + row * rowBytes;
      long target = to + row * BLOCK * Short.BYTES;
      for (long block = 0; block < columns; block += BLOCK) {
        packBlock(first + block * Float.BYTES, rowBytes, target + block / BLOCK * blockBytes);
      }
    }
  }

  private static void packBlock(long first, long rowBytes, long to) {
    for (int i = 0; i < BLOCK; i += LANES) {
      IntVector low = Simd.halfBits(load(first, i));
      IntVector high = Simd.halfBits(load(first + rowBytes, i));
      Simd.store(low.or(high.lanewise(VectorOperators.LSHL, 16)).reinterpretAsFloats(), to, i);
    }
  }
}
