package org.meanflow.nn.engine.cpu;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.ShortVector;
import jdk.incubator.vector.VectorOperators;
import jdk.incubator.vector.VectorShape;
import jdk.incubator.vector.VectorShuffle;
import jdk.incubator.vector.VectorSpecies;

/**
 * Vectors on raw addresses, and the functions that kernels share.
 *
 * <p>Kernels see rows of float32 whose length is a multiple of a vector's: rows of other lengths,
 * and those of bfloat16, are staged through scratch memory ({@link #in}, {@link #out}, {@link
 * #done}), zeros behind their end. So a kernel is one loop, without a tail and without a second
 * version for bfloat16; what is staged is in the first-level cache.
 */
final class Simd {
  /** All memory. Checks on a segment without bounds fold away, those on small ones do not. */
  static final MemorySegment ALL = MemorySegment.NULL.reinterpret(Long.MAX_VALUE);

  static final VectorSpecies<Float> FLOATS = FloatVector.SPECIES_PREFERRED;

  /** Floats in a vector. */
  static final int LANES = FLOATS.length();

  /** Bytes of a vector. */
  static final int BYTES = LANES * Float.BYTES;

  private static final VectorSpecies<Integer> INTS = IntVector.SPECIES_PREFERRED;
  private static final VectorSpecies<Short> SHORTS =
      VectorSpecies.of(short.class, VectorShape.forBitSize(LANES * Short.SIZE));
  private static final VectorShuffle<Float> FOLD_8 = fold(8);
  private static final VectorShuffle<Float> FOLD_4 = fold(4);
  private static final VectorShuffle<Float> FOLD_2 = fold(2);
  private static final VectorShuffle<Float> FOLD_1 = fold(1);

  /** Vectors whose squares are summed in float32: few, so that little is lost. */
  private static final int SQUARES_BLOCK = 8;

  private static final int HALF_NAN = 0x7fc0;
  private static final IntVector HALF_NANS = IntVector.broadcast(INTS, HALF_NAN << 16);
  private static final IntVector HALF = IntVector.broadcast(INTS, 0x7fff);
  private static final IntVector ROUND = IntVector.broadcast(INTS, 0x8000);

  /** The bits of a float32 number that bfloat16 has. */
  private static final IntVector LEADING = IntVector.broadcast(INTS, 0xffff0000);

  private static final ShortVector HIGH_HALVES = highHalves();
  private static final IntVector ODD = IntVector.broadcast(INTS, 1);
  private static final ByteOrder ORDER = ByteOrder.nativeOrder();
  private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;
  private static final ValueLayout.OfLong TWO = ValueLayout.JAVA_LONG_UNALIGNED;
  private static final ValueLayout.OfShort SHORT = ValueLayout.JAVA_SHORT_UNALIGNED;

  private Simd() {}

  static FloatVector load(long address) {
    return FloatVector.fromMemorySegment(FLOATS, ALL, address, ORDER);
  }

  /** Floats {@code i} to {@code i + LANES} of a row. */
  static FloatVector load(long row, int i) {
    return load(row + (long) i * Float.BYTES);
  }

  static void store(FloatVector x, long address) {
    x.intoMemorySegment(ALL, address, ORDER);
  }

  /** Floats {@code i} to {@code i + LANES} of a row. */
  static void store(FloatVector x, long row, int i) {
    store(x, row + (long) i * Float.BYTES);
  }

  /** Elements {@code i} to {@code i + LANES} of a row of bfloat16 or of float32 numbers. */
  static FloatVector load(long row, int i, boolean half) {
    return half ? widened(row + (long) i * Short.BYTES) : load(row, i);
  }

  /** Elements {@code i} to {@code i + LANES} of a row of bfloat16 or of float32 numbers. */
  static void store(FloatVector x, long row, int i, boolean half) {
    if (half) {
      narrow(x, row + (long) i * Short.BYTES);
    } else {
      store(x, row, i);
    }
  }

  /**
   * Elements {@code i} to {@code i + LANES} of a row of bfloat16 or float32 numbers. For results of
   * arithmetic: bfloat16 to the nearest, ties away from zero, which takes a third of what {@link
   * #narrow} does for arbitrary bits.
   */
  static void storeResult(FloatVector x, long row, int i, boolean half) {
    if (half) {
      halves(x).intoMemorySegment(ALL, row + (long) i * Short.BYTES, ORDER);
    } else {
      store(x, row, i);
    }
  }

  /** Elements {@code i} to {@code end} of a row of bfloat16 or float32 numbers, i &lt; end. */
  static void storeFirst(FloatVector x, long row, int i, int end, boolean half) {
    if (half) {
      halves(x)
          .intoMemorySegment(ALL, row + (long) i * Short.BYTES, ORDER, SHORTS.indexInRange(i, end));
    } else {
      x.intoMemorySegment(ALL, row + (long) i * Float.BYTES, ORDER, FLOATS.indexInRange(i, end));
    }
  }

  /** bfloat16 numbers nearest to results of arithmetic, ties away from zero. */
  private static ShortVector halves(FloatVector x) {
    IntVector rounded = x.reinterpretAsInts().add(0x8000).lanewise(VectorOperators.LSHR, 16);
    return (ShortVector) rounded.convertShape(VectorOperators.I2S, SHORTS, 0);
  }

  static FloatVector all(float value) {
    return FloatVector.broadcast(FLOATS, value);
  }

  static float get(long address) {
    return ALL.get(FLOAT, address);
  }

  static void set(long address, float value) {
    ALL.set(FLOAT, address, value);
  }

  /** Float {@code i} of a row. */
  static float get(long row, int i) {
    return get(row + (long) i * Float.BYTES);
  }

  /** Float {@code i} of a row. */
  static void set(long row, int i, float value) {
    set(row + (long) i * Float.BYTES, value);
  }

  /** Copies few floats: two at once, without a call. */
  static void copy(long from, long to, int floats) {
    int i = 0;
    for (; i + 2 <= floats; i += 2) {
      ALL.set(TWO, to + (long) i * Float.BYTES, ALL.get(TWO, from + (long) i * Float.BYTES));
    }
    if (i < floats) {
      set(to + (long) i * Float.BYTES, get(from + (long) i * Float.BYTES));
    }
  }

  /** Copies bfloat16 numbers. */
  static void copyHalves(long from, long to, int length) {
    int whole = length / (2 * LANES) * (2 * LANES);
    for (long at = 0; at < (long) whole * Short.BYTES; at += BYTES) {
      store(load(from + at), to + at);
    }
    for (int i = whole; i < length; i++) {
      ALL.set(SHORT, to + (long) i * Short.BYTES, ALL.get(SHORT, from + (long) i * Short.BYTES));
    }
  }

  /** The length rounded up to whole vectors. */
  static int padded(int length) {
    return (length + LANES - 1) / LANES * LANES;
  }

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
    long staged = scratch.floats(slot, padded(length));
    copyIn(x, element, length, staged);
    return staged;
  }

  /** The same, copied to an address in any case. */
  static void copyIn(CpuTensor x, long element, int length, long to) {
    long address = x.address(element);
    if (x.half()) {
      widen(address, to, length);
    } else {
      copyRow(address, to, length);
    }
    for (int i = length; i % LANES != 0; i++) {
      set(to + (long) i * Float.BYTES, 0);
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
    int padded = padded(width);
    long staged = scratch.floats(slot, (long) rows * padded);
    for (int row = 0; row < rows; row++) {
      long from = in(x, element + (long) row * width, width, scratch, rowSlot);
      copyRow(from, staged + (long) row * padded * Float.BYTES, padded);
    }
    return staged;
  }

  /** Where {@code length} elements of a tensor are to be written as float32; then {@link #done}. */
  static long out(CpuTensor x, long element, int length, Scratch scratch, int slot) {
    return isDirect(x.half(), length) ? x.address(element) : scratch.floats(slot, padded(length));
  }

  /** Puts what was written to the address that {@link #out} gave into the tensor. */
  static void done(CpuTensor x, long element, int length, long written) {
    long address = x.address(element);
    if (isDirect(x.half(), length)) {
      return;
    }
    if (x.half()) {
      narrow(written, address, length);
    } else {
      copyRow(written, address, length);
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

  /** bfloat16 to float32. */
  static void widen(long from, long to, int length) {
    int vectors = length / LANES * LANES;
    int i = 0;
    for (; i < vectors; i += LANES) {
      store(widened(from + (long) i * Short.BYTES), to + (long) i * Float.BYTES);
    }
    for (; i < length; i++) {
      int bits = ALL.get(SHORT, from + (long) i * Short.BYTES) << 16;
      set(to + (long) i * Float.BYTES, Float.intBitsToFloat(bits));
    }
  }

  /** The bfloat16 numbers at an address. */
  static FloatVector widened(long from) {
    // Not by way of bits(): one call more, and some loops are nested too deep to be inlined.
    ShortVector half = ShortVector.fromMemorySegment(SHORTS, ALL, from, ORDER);
    IntVector bits = (IntVector) half.convertShape(VectorOperators.ZERO_EXTEND_S2I, INTS, 0);
    return bits.lanewise(VectorOperators.LSHL, 16).reinterpretAsFloats();
  }

  /** float32 to bfloat16, to the nearest, ties to even. */
  static void narrow(long from, long to, int length) {
    int vectors = length / LANES * LANES;
    int i = 0;
    for (; i < vectors; i += LANES) {
      FloatVector x = load(from, i);
      IntVector bits = x.reinterpretAsInts();
      IntVector odd = bits.lanewise(VectorOperators.LSHR, 16).and(1);
      IntVector rounded = bits.add(odd).add(0x7fff).lanewise(VectorOperators.LSHR, 16);
      // Rounding could carry a NaN's payload over into a number.
      rounded = rounded.blend(HALF_NAN, x.test(VectorOperators.IS_NAN).cast(INTS));
      ((ShortVector) rounded.convertShape(VectorOperators.I2S, SHORTS, 0))
          .intoMemorySegment(ALL, to + (long) i * Short.BYTES, ORDER);
    }
    for (; i < length; i++) {
      float x = get(from + (long) i * Float.BYTES);
      int bits = Float.floatToRawIntBits(x);
      int rounded = Float.isNaN(x) ? HALF_NAN : (bits + 0x7fff + (bits >>> 16 & 1)) >>> 16;
      ALL.set(SHORT, to + (long) i * Short.BYTES, (short) rounded);
    }
  }

  /** As bfloat16 to an address. */
  static void narrow(FloatVector x, long to) {
    ((ShortVector) halfBits(x).convertShape(VectorOperators.I2S, SHORTS, 0))
        .intoMemorySegment(ALL, to, ORDER);
  }

  /** As bfloat16, in the low bits of each lane; zeros in the high ones. */
  static IntVector halfBits(FloatVector x) {
    IntVector bits = x.reinterpretAsInts();
    bits = bits.add(HALF).add(bits.lanewise(VectorOperators.LSHR, 16).and(ODD));
    // Rounding could carry a NaN's payload over into a number.
    bits = bits.blend(HALF_NANS, x.compare(VectorOperators.NE, x).cast(INTS));
    return bits.lanewise(VectorOperators.LSHR, 16);
  }

  /** The bfloat16 numbers at an address, in the low bits of each lane; zeros in the high ones. */
  static IntVector bits(long from) {
    ShortVector half = ShortVector.fromMemorySegment(SHORTS, ALL, from, ORDER);
    return (IntVector) half.convertShape(VectorOperators.ZERO_EXTEND_S2I, INTS, 0);
  }

  /** The nearest number of 8 significant bits, ties away from zero. */
  static FloatVector leading(FloatVector x) {
    return x.reinterpretAsInts().add(ROUND).and(LEADING).reinterpretAsFloats();
  }

  /** The high bits of each lane of two vectors, in pairs, the first vector's in front. */
  static void storeLeadingPairs(FloatVector first, FloatVector second, long to) {
    IntVector low = first.reinterpretAsInts().lanewise(VectorOperators.LSHR, Short.SIZE);
    store(low.or(second.reinterpretAsInts().and(LEADING)).reinterpretAsFloats(), to);
  }

  /** The high bits of the lanes of two vectors, bfloat16, to an address. */
  static void storeLeading(FloatVector first, FloatVector second, long to) {
    HIGH_HALVES.selectFrom(shorts(first), shorts(second)).intoMemorySegment(ALL, to, ORDER);
  }

  private static ShortVector shorts(FloatVector x) {
    return (ShortVector) x.reinterpretShape(ShortVector.SPECIES_PREFERRED, 0);
  }

  private static ShortVector highHalves() {
    short[] places = new short[2 * LANES];
    for (int i = 0; i < places.length; i++) {
      places[i] = (short) (2 * i + 1);
    }
    return ShortVector.fromArray(ShortVector.SPECIES_PREFERRED, places, 0);
  }

  // Constant vectors: a broadcast within a loop costs the compiler much of what it may inline.
  static final FloatVector ONE = all(1f);
  private static final FloatVector LOG2_E = all((float) (1 / Math.log(2)));
  private static final float LN2_HIGH = 355f / 512;
  private static final float LN2_LOW = -2.1219444e-4f;

  /** 1.5·2²³: a float plus this has its nearest integer in its low bits. */
  private static final FloatVector ROUNDER = all(12582912f);

  private static final FloatVector P5 = all(1.3264727e-3f);
  private static final FloatVector P4 = all(9.671513e-3f);
  private static final FloatVector P3 = all(0.055507336f);
  private static final FloatVector P2 = all(2.4022242e-1f);
  private static final FloatVector P1 = all(0.693147f);

  /**
   * eˣ to about 2 units in the last place; arguments below −60 give e⁻⁶⁰, above 88 e⁸⁸; NaN for
   * NaN. So no product with a probability is subnormal, which would cost a hundred cycles. The
   * polynomial is the minimax one of Cephes' expf.
   */
  static FloatVector exp(FloatVector argument) {
    FloatVector x = argument.min(88f).max(-60f);
    FloatVector shifted = x.fma(LOG2_E, ROUNDER);
    FloatVector n = shifted.sub(ROUNDER);
    FloatVector r = n.fma(all(-LN2_HIGH), x);
    r = n.fma(all(-LN2_LOW), r);
    FloatVector p = all(1.9875691e-4f);
    p = p.fma(r, all(1.3981999e-3f));
    p = p.fma(r, all(8.333452e-3f));
    p = p.fma(r, all(4.1665796e-2f));
    p = p.fma(r, all(1.6666666e-1f));
    p = p.fma(r, all(5.0e-1f));
    p = p.fma(r.mul(r), r).add(1f);
    IntVector power = shifted.reinterpretAsInts().lanewise(VectorOperators.LSHL, 23);
    return p.reinterpretAsInts().add(power).reinterpretAsFloats();
  }

  /** 2ˣ for −126 ≤ x ≤ 126, otherwise undefined; NaN for NaN. */
  static FloatVector exp2(FloatVector x) {
    FloatVector shifted = x.add(ROUNDER);
    return scaled(x.sub(shifted.sub(ROUNDER)), shifted);
  }

  /** 2ʳ·2ⁿ, |r| ≤ ½, where {@code shifted} is n + ROUNDER; the polynomial is minimax, to 2⁻²³. */
  private static FloatVector scaled(FloatVector r, FloatVector shifted) {
    // Pairs first: the chain of operations is what takes the time.
    FloatVector square = r.mul(r);
    FloatVector p = r.fma(P5, P4).fma(square, r.fma(P3, P2)).fma(square, r.fma(P1, ONE));
    IntVector power = shifted.reinterpretAsInts().lanewise(VectorOperators.LSHL, 23);
    return p.reinterpretAsInts().add(power).reinterpretAsFloats();
  }

  /** The larger of each lane; x where one is NaN. */
  static FloatVector larger(FloatVector x, FloatVector y) {
    return x.blend(y, y.compare(VectorOperators.GT, x));
  }

  /**
   * 2ˣ for x ≤ 126; below −86 it is 2⁻⁸⁶, so that no product with a probability is subnormal; NaN
   * for NaN.
   */
  static FloatVector exp2FromBelow(FloatVector x) {
    return exp2(x.blend(-86f, x.compare(VectorOperators.LT, -86f)));
  }

  /** 1/(1 + e⁻ˣ). */
  static FloatVector sigmoid(FloatVector x) {
    return all(1f).div(exp(x.neg()).add(1f));
  }

  /**
   * Σ of the lanes, halves onto halves. {@code reduceLanes} leaves the order open, and takes one in
   * interpreted and another in compiled code: so results would depend on when a loop is compiled,
   * and no run could be repeated bit for bit.
   */
  static float sum(FloatVector x) {
    FloatVector sum = x;
    for (int lanes = LANES / 2; lanes > 8; lanes /= 2) {
      sum = sum.add(sum.rearrange(fold(lanes)));
    }
    if (LANES > 8) {
      sum = sum.add(sum.rearrange(FOLD_8));
    }
    if (LANES > 4) {
      sum = sum.add(sum.rearrange(FOLD_4));
    }
    if (LANES > 2) {
      sum = sum.add(sum.rearrange(FOLD_2));
    }
    return sum.add(sum.rearrange(FOLD_1)).lane(0);
  }

  /** The largest of the lanes. */
  static float largest(FloatVector x) {
    FloatVector most = x;
    for (int lanes = LANES / 2; lanes > 8; lanes /= 2) {
      most = larger(most, most.rearrange(fold(lanes)));
    }
    if (LANES > 8) {
      most = larger(most, most.rearrange(FOLD_8));
    }
    if (LANES > 4) {
      most = larger(most, most.rearrange(FOLD_4));
    }
    if (LANES > 2) {
      most = larger(most, most.rearrange(FOLD_2));
    }
    return larger(most, most.rearrange(FOLD_1)).lane(0);
  }

  private static VectorShuffle<Float> fold(int lanes) {
    return VectorShuffle.fromOp(FLOATS, i -> (i + lanes) % LANES);
  }

  /** Σ x over {@code length} floats, a multiple of a vector's. */
  static float sum(long x, int length) {
    FloatVector sum = FloatVector.zero(FLOATS);
    for (int i = 0; i < length; i += LANES) {
      sum = sum.add(load(x, i));
    }
    return sum(sum);
  }

  /** Σ x·y over {@code length} floats, a multiple of a vector's. */
  static float dot(long x, long y, int length) {
    FloatVector sum = FloatVector.zero(FLOATS);
    for (int i = 0; i < length; i += LANES) {
      sum = load(x, i).fma(load(y, i), sum);
    }
    return sum(sum);
  }

  /** y += x, {@code length} floats, a multiple of a vector's. */
  static void addTo(long x, long y, int length) {
    for (int i = 0; i < length; i += LANES) {
      store(load(y, i).add(load(x, i)), y, i);
    }
  }

  /** y += x, where y is bfloat16. */
  static void addToHalf(long x, long y, int length) {
    for (int i = 0; i < length; i += LANES) {
      storeResult(widened(y + (long) i * Short.BYTES).add(load(x, i)), y, i, true);
    }
  }

  /** y = x, {@code length} floats. */
  static void copyRow(long x, long y, long length) {
    MemorySegment.copy(ALL, x, ALL, y, length * Float.BYTES);
  }

  /** Zeros, {@code length} floats, a multiple of a vector's. */
  static void clear(long x, int length) {
    FloatVector zero = FloatVector.zero(FLOATS);
    for (int i = 0; i < length; i += LANES) {
      store(zero, x, i);
    }
  }

  /** Σ x² over {@code length} floats, a multiple of a vector's: in float64 of blocks of vectors. */
  static double squares(long x, int length) {
    double sum = 0;
    for (int block = 0; block < length; block += SQUARES_BLOCK * LANES) {
      int floats = Math.min(SQUARES_BLOCK * LANES, length - block);
      long row = x + (long) block * Float.BYTES;
      sum += dot(row, row, floats);
    }
    return sum;
  }

  /**
   * The same for rows, of any length. Four are read in turn: a core reads one stream of addresses
   * at half the speed.
   */
  static double squaresOfRows(long x, long rowBytes, long rows, long columns) {
    int whole = (int) (columns / LANES * LANES);
    double sum = 0;
    for (long row = 0; row < rows; row++) {
      boolean vectors = row / 4 < rows / 4;
      long at = x + row * rowBytes;
      for (int i = 0; i < whole && vectors && row % 4 == 0; i += SQUARES_BLOCK * LANES) {
        int length = Math.min(SQUARES_BLOCK * LANES, whole - i);
        sum += squares(at + (long) i * Float.BYTES, rowBytes, length);
      }
      for (int i = vectors ? whole : 0; i < columns; i++) {
        double one = get(at, i);
        sum += one * one;
      }
    }
    return sum;
  }

  /** Of four rows. */
  private static float squares(long a, long rowBytes, int length) {
    long b = a + rowBytes;
    long c = b + rowBytes;
    long d = c + rowBytes;
    FloatVector sumA = FloatVector.zero(FLOATS);
    FloatVector sumB = FloatVector.zero(FLOATS);
    FloatVector sumC = FloatVector.zero(FLOATS);
    FloatVector sumD = FloatVector.zero(FLOATS);
    for (int i = 0; i < length; i += LANES) {
      FloatVector x = load(a, i);
      sumA = x.fma(x, sumA);
      x = load(b, i);
      sumB = x.fma(x, sumB);
      x = load(c, i);
      sumC = x.fma(x, sumC);
      x = load(d, i);
      sumD = x.fma(x, sumD);
    }
    return sum(sumA.add(sumB).add(sumC.add(sumD)));
  }
}
