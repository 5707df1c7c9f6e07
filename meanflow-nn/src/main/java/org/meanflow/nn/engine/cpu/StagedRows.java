package org.meanflow.nn.engine.cpu;

import static org.meanflow.nn.engine.cpu.Simd.LANES;

/**
 * Rows of tensors as kernels see them: of float32, their length a multiple of a vector's. Rows of
 * other lengths, and those of bfloat16, are staged through scratch memory ({@link #in}, {@link
 * #out}, {@link #done}), zeros behind their end. So a kernel is one loop, without a tail and
 * without a second version for bfloat16; what is staged is in the first-level cache.
 */
final class StagedRows {

  private StagedRows() {}

  private static boolean isDirect(boolean half, int length) {
    return !half && length % LANES == 0;
  }

  /** Whether rows of a tensor can be read and written as float32, without being staged. */
  static boolean isDirect(CpuTensor x, int length) {
    return isDirect(x.half(), length);
  }

  /** {@code length} elements of a tensor as float32, zeros behind them up to a whole vector. */
  static long in(CpuTensor x, long element, int length, Scratch scratch, int slot) {
    long address = x.address(element);
    if (isDirect(x.half(), length)) {
      return address;
    }
    long staged = scratch.floats(slot, Simd.padded(length));
    copyIn(x, element, length, staged);
    return staged;
  }

  /** The same, copied to an address in any case. */
  static void copyIn(CpuTensor x, long element, int length, long to) {
    long address = x.address(element);
    if (x.half()) {
      Simd.widen(address, to, length);
    } else {
      Simd.copyRow(address, to, length);
    }
    for (int i = length; i % LANES != 0; i++) {
      Simd.set(to + (long) i * Float.BYTES, 0);
    }
  }

  /** Whether rows of a tensor can be read and written as bfloat16, without being staged. */
  static boolean isDirectHalf(CpuTensor x, int length) {
    return x.half() && length % LANES == 0;
  }

  /** Rows that follow each other, each as {@link #in} gives it, padded to whole vectors. */
  static long inRows(
      CpuTensor x, long element, int rows, int width, Scratch scratch, int slot, int rowSlot) {
    if (isDirect(x.half(), width)) {
      return x.address(element);
    }
    int padded = Simd.padded(width);
    long staged = scratch.floats(slot, (long) rows * padded);
    for (int row = 0; row < rows; row++) {
      long from = in(x, element + (long) row * width, width, scratch, rowSlot);
      Simd.copyRow(from, staged + (long) row * padded * Float.BYTES, padded);
    }
    return staged;
  }

  /** Where {@code length} elements of a tensor are to be written as float32; then {@link #done}. */
  static long out(CpuTensor x, long element, int length, Scratch scratch, int slot) {
    return isDirect(x.half(), length)
        ? x.address(element)
        : scratch.floats(slot, Simd.padded(length));
  }

  /** Puts what was written to the address that {@link #out} gave into the tensor. */
  static void done(CpuTensor x, long element, int length, long written) {
    long address = x.address(element);
    if (isDirect(x.half(), length)) {
      return;
    }
    if (x.half()) {
      Simd.narrow(written, address, length);
    } else {
      Simd.copyRow(written, address, length);
    }
  }

  /** As {@link #in}; bfloat16 where it lies, if {@link #isDirectHalf}. */
  static long eitherIn(CpuTensor x, long element, int length, Scratch scratch, int slot) {
    return isDirectHalf(x, length) ? x.address(element) : in(x, element, length, scratch, slot);
  }

  /** As {@link #out}; bfloat16 where it is to lie, if {@link #isDirectHalf}. */
  static long eitherOut(CpuTensor x, long element, int length, Scratch scratch, int slot) {
    return isDirectHalf(x, length) ? x.address(element) : out(x, element, length, scratch, slot);
  }

  /** Puts what was written to the address that {@link #eitherOut} gave into the tensor. */
  static void eitherDone(CpuTensor x, long element, int length, long written) {
    if (!isDirectHalf(x, length)) {
      done(x, element, length, written);
    }
  }
}
