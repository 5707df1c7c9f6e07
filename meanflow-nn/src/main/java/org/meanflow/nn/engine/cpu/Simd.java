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

/** Vectors and rows of them on raw addresses, float32 and bfloat16. */
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

  /** The larger of each lane; x where one is NaN. */
  static FloatVector larger(FloatVector x, FloatVector y) {
    return x.blend(y, y.compare(VectorOperators.GT, x));
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
   * Σ x² over {@code length} floats, a multiple of 32 vectors', in float64 of blocks of vectors.
   * Four places are read in turn: a core reads one stream of addresses at half the speed.
   */
  static double squaresOfRows(long x, int length) {
    double sum = 0;
    long step = (long) length / 4 * Float.BYTES;
    for (int i = 0; i < length / 4; i += SQUARES_BLOCK * LANES) {
      long row = x + (long) i * Float.BYTES;
      sum += squares(row, row + step, row + 2 * step, row + 3 * step);
    }
    return sum;
  }

  private static float squares(long a, long b, long c, long d) {
    FloatVector sumA = FloatVector.zero(FLOATS);
    FloatVector sumB = FloatVector.zero(FLOATS);
    FloatVector sumC = FloatVector.zero(FLOATS);
    FloatVector sumD = FloatVector.zero(FLOATS);
    for (int i = 0; i < SQUARES_BLOCK * LANES; i += LANES) {
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
