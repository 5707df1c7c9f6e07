package org.meanflow.nn.engine.cpu;

/**
 * A length cut into pieces of one size, but for the last.
 *
 * @param length what is cut, > 0
 * @param size of a piece, > 0
 */
record Pieces(long length, long size) {

  /** Even pieces of at most {@code most}, multiples of {@code multiple}. */
  static Pieces of(long length, long most, long multiple) {
    long even = Math.ceilDiv(length, Math.ceilDiv(length, most));
    return new Pieces(length, Math.min(length, Math.ceilDiv(even, multiple) * multiple));
  }

  int count() {
    return Math.toIntExact(Math.ceilDiv(length, size));
  }

  long start(int piece) {
    return piece * size;
  }

  /** The piece that a position lies in. */
  int at(long position) {
    return Math.toIntExact(position / size);
  }

  boolean isLast(int piece) {
    return piece == count() - 1;
  }

  long size(boolean last) {
    return last ? length - (count() - 1) * size : size;
  }
}
