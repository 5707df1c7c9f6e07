package org.meanflow.nn.engine.cpu;

import jdk.incubator.vector.IntVector;

/**
 * Transposes squares of 32-bit numbers, as wide as a vector. Each stage interleaves the rows of the
 * upper half with those of the lower: it moves the last bit of a number's column to its row and the
 * first bit of its row to its column, so that after as many stages as there are bits rows and
 * columns have changed places.
 */
final class Transposition {
  /** Rows and columns of a square. */
  static final int SIDE = Simd.LANES;

  /** Memory that a square takes. */
  static final long BYTES = (long) SIDE * Simd.BYTES;

  private static final int HALF = SIDE / 2;
  private static final int STAGES = Integer.numberOfTrailingZeros(SIDE);
  private static final IntVector FIRST = interleaved(0);
  private static final IntVector SECOND = interleaved(HALF);

  private Transposition() {}

  private static IntVector interleaved(int start) {
    int[] places = new int[SIDE];
    for (int i = 0; i < HALF; i++) {
      places[2 * i] = start + i;
      places[2 * i + 1] = SIDE + start + i;
    }
    return IntVector.fromArray(IntVector.SPECIES_PREFERRED, places, 0);
  }

  /**
   * Transposes.
   *
   * @param square address of the rows, one after the other; overwritten
   * @param spare address of {@link #BYTES}; overwritten
   * @param to address of the first row of the result
   * @param rowBytes bytes between rows of the result
   */
  static void run(long square, long spare, long to, long rowBytes) {
    long from = square;
    long other = spare;
    for (int stage = 1; stage <= STAGES; stage++) {
      boolean last = stage == STAGES;
      interleave(from, last ? to : other, last ? rowBytes : Simd.BYTES);
      long swap = from;
      from = other;
      other = swap;
    }
  }

  private static void interleave(long from, long to, long rowBytes) {
    for (int i = 0; i < HALF; i++) {
      IntVector upper = Simd.load(from, i * SIDE).reinterpretAsInts();
      IntVector lower = Simd.load(from, (i + HALF) * SIDE).reinterpretAsInts();
      long row = to + 2L * i * rowBytes;
      Simd.store(FIRST.selectFrom(upper, lower).reinterpretAsFloats(), row);
      Simd.store(SECOND.selectFrom(upper, lower).reinterpretAsFloats(), row + rowBytes);
    }
  }
}
