package org.meanflow.core.random;

import java.util.Arrays;

/**
 * Pairs of normal numbers from random bits: Philox4x32-10 and the Box–Muller transform in float64,
 * r = √(−2 ln(1 − u)), r·cos 2πv and r·sin 2πv.
 *
 * <p>Many are computed at once, in plain loops that the compiler turns into vector instructions:
 * six times as fast as one by one. Logarithm and sine are series of basic operations, so that a
 * number is the same to the last bit whether it is computed alone or among others, interpreted or
 * compiled; they are exact to some 10⁻¹⁶.
 */
final class NormalPairs {
  /** Pairs that are computed at once: their arrays fit into the first-level cache. */
  private static final int AT_ONCE = 256;

  private static final long LOW = 0xFFFFFFFFL;
  private static final long MULTIPLIER_0 = RandomStream.MULTIPLIER_0 & LOW;
  private static final long MULTIPLIER_1 = RandomStream.MULTIPLIER_1 & LOW;
  private static final long ONE = 1L << 53;
  private static final double UNIT = 0x1p-53;
  private static final long ROOT_OF_HALF = Double.doubleToRawLongBits(Math.sqrt(0.5));
  private static final int FRACTION_BITS = 52;
  private static final long FRACTION = (1L << FRACTION_BITS) - 1;
  private static final double LN_2 = 0.6931471805599453;

  /** 1.5·2⁵²: a small number plus this has lost its fraction. */
  private static final double ROUNDER = 0x1.8p52;

  private static final double TURN = 2 * Math.PI;

  private static final ThreadLocal<NormalPairs> WORK = ThreadLocal.withInitial(NormalPairs::new);

  private final long[] c0 = new long[AT_ONCE];
  private final long[] c1 = new long[AT_ONCE];
  private final long[] c2 = new long[AT_ONCE];
  private final long[] c3 = new long[AT_ONCE];
  private final double[] a = new double[AT_ONCE];
  private final double[] b = new double[AT_ONCE];
  private final double[] c = new double[AT_ONCE];

  private NormalPairs() {}

  /** Arrays that this thread uses again: making them anew takes a third of the time. */
  static NormalPairs ofThisThread() {
    return WORK.get();
  }

  /**
   * The pairs of blocks that follow each other, rounded to float32.
   *
   * @param counter of the first block, four parts
   * @param key two halves
   * @param target where the pairs go, each a cosine and a sine
   * @param from index of the first number
   * @param count how many pairs, ≥ 0
   */
  void fill(int[] counter, int[] key, float[] target, int from, int count) {
    for (int done = 0; done < count; done += AT_ONCE) {
      int n = Math.min(AT_ONCE, count - done);
      count(c0, (long) counter[0] + done, n);
      Arrays.fill(c1, counter[1] & LOW);
      Arrays.fill(c2, counter[2] & LOW);
      Arrays.fill(c3, counter[3] & LOW);
      for (int round = 0; round < RandomStream.ROUNDS; round++) {
        long k0 = key[0] + round * RandomStream.WEYL_0 & LOW;
        long k1 = key[1] + round * RandomStream.WEYL_1 & LOW;
        round(c0, c1, c2, c3, k0, k1, n);
      }
      split(c0, c1, a, b, n);
      radii(a, b, n);
      turns(c2, c3, a, n);
      sines(a, b, c, n);
      cosines(a, b, n);
      interleave(b, c, target, from + 2 * done, n);
    }
  }

  private static void count(long[] c, long from, int n) {
    for (int i = 0; i < n; i++) {
      c[i] = from + i & LOW;
    }
  }

  private static void round(
      long[] c0, long[] c1, long[] c2, long[] c3, long key0, long key1, int n) {
    for (int i = 0; i < n; i++) {
      long product0 = MULTIPLIER_0 * c0[i];
      long product1 = MULTIPLIER_1 * c2[i];
      c0[i] = product1 >>> 32 ^ c1[i] ^ key0;
      c1[i] = product1 & LOW;
      c2[i] = product0 >>> 32 ^ c3[i] ^ key1;
      c3[i] = product0 & LOW;
    }
  }

  /** 1 − u as a power of two and what it is multiplied with. */
  private static void split(
      long[] high, long[] low, double[] exponents, double[] fractions, int n) {
    for (int i = 0; i < n; i++) {
      long bits = bits((ONE - (high[i] << 21 ^ low[i] >>> 11)) * UNIT);
      exponents[i] = exponent(bits);
      fractions[i] = fraction(bits);
    }
  }

  private static void radii(double[] exponents, double[] radii, int n) {
    for (int i = 0; i < n; i++) {
      radii[i] = Math.sqrt(-2 * log(exponents[i], radii[i]));
    }
  }

  private static void turns(long[] high, long[] low, double[] turns, int n) {
    for (int i = 0; i < n; i++) {
      turns[i] = (high[i] << 21 ^ low[i] >>> 11) * UNIT;
    }
  }

  private static void sines(double[] turns, double[] radii, double[] sines, int n) {
    for (int i = 0; i < n; i++) {
      sines[i] = radii[i] * sin(turns[i]);
    }
  }

  private static void cosines(double[] turns, double[] radii, int n) {
    for (int i = 0; i < n; i++) {
      radii[i] *= cos(turns[i]);
    }
  }

  private static void interleave(double[] a, double[] b, float[] target, int from, int n) {
    for (int i = 0; i < n; i++) {
      target[from + 2 * i] = (float) a[i];
      target[from + 2 * i + 1] = (float) b[i];
    }
  }

  /** r for a number u on [0, 1), a multiple of 2⁻⁵³. */
  static double radius(double u) {
    long bits = bits(1 - u);
    return Math.sqrt(-2 * log(exponent(bits), fraction(bits)));
  }

  /** The bits of a positive number, minus those of √½. */
  private static long bits(double x) {
    return Double.doubleToRawLongBits(x) - ROOT_OF_HALF;
  }

  /** e of x = f·2ᵉ with f in [√½, √2). */
  private static double exponent(long bits) {
    return bits >> FRACTION_BITS;
  }

  /** f of x = f·2ᵉ. */
  private static double fraction(long bits) {
    return Double.longBitsToDouble((bits & FRACTION) + ROOT_OF_HALF);
  }

  /** ln(f·2ᵉ) = e·ln 2 + 2 artanh((f − 1)/(f + 1)), |artanh's argument| < 0.172. */
  private static double log(double exponent, double fraction) {
    double x = (fraction - 1) / (fraction + 1);
    double z = x * x;
    double p = 1.0 / 21;
    p = p * z + 1.0 / 19;
    p = p * z + 1.0 / 17;
    p = p * z + 1.0 / 15;
    p = p * z + 1.0 / 13;
    p = p * z + 1.0 / 11;
    p = p * z + 1.0 / 9;
    p = p * z + 1.0 / 7;
    p = p * z + 1.0 / 5;
    p = p * z + 1.0 / 3;
    return exponent * LN_2 + 2 * (x + x * z * p);
  }

  /** sin 2πv for 0 ≤ v &lt; 1. */
  static double sin(double turns) {
    return sine(turns);
  }

  /** cos 2πv for 0 ≤ v &lt; 1. */
  static double cos(double turns) {
    return sine(0.25 - turns);
  }

  /** sin 2πv for −¾ &lt; v &lt; 1: up to sign that of an angle within ±π/2, by its series. */
  private static double sine(double turns) {
    double half = 2 * turns + ROUNDER - ROUNDER;
    double x = TURN * (turns - 0.5 * half);
    double z = x * x;
    double p = 1 / 51090942171709440000.0; // 21!
    p = p * z - 1 / 121645100408832000.0;
    p = p * z + 1 / 355687428096000.0;
    p = p * z - 1 / 1307674368000.0;
    p = p * z + 1 / 6227020800.0;
    p = p * z - 1 / 39916800.0;
    p = p * z + 1 / 362880.0;
    p = p * z - 1 / 5040.0;
    p = p * z + 1 / 120.0;
    p = p * z - 1 / 6.0;
    double size = Math.abs(half); // 0, 1 or 2 halves of a turn
    double sign = 1 - 2 * size * (2 - size);
    return sign * (x + x * z * p);
  }
}
