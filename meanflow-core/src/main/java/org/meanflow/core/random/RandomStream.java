package org.meanflow.core.random;

import java.util.Arrays;
import java.util.Objects;
import java.util.stream.IntStream;
import org.meanflow.core.batch.Batches;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/**
 * A stream of random numbers that is a pure function of (seed, step, rank, purpose): resuming a run
 * or sharing it between devices draws the same numbers as an uninterrupted run on one.
 *
 * <p>The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
 * SC 2011), a counter-based generator that a GPU can evaluate at any position by itself. Key: the
 * 64-bit seed. Counter: (block, purpose and rank, step). Normal numbers come from the Box–Muller
 * transform in float64.
 */
public final class RandomStream {
  static final int MULTIPLIER_0 = 0xD2511F53;
  static final int MULTIPLIER_1 = 0xCD9E8D57;
  static final int WEYL_0 = 0x9E3779B9;
  static final int WEYL_1 = 0xBB67AE85;
  static final int ROUNDS = 10;
  private static final int NUMBERS_AT_ONCE = 2048;

  private final int[] block = new int[4];
  private final int key0;
  private final int key1;
  private final int counter1;
  private final int counter2;
  private final int counter3;
  private int counter0;
  private int used = 4;
  private double spareNormal = Double.NaN;

  /**
   * The stream of {@code purpose} at a step of a run on the first (or only) device.
   *
   * @param seed seed of the run, any value
   * @param step step, epoch or sample number, ≥ 0
   * @param purpose what the numbers are for
   */
  public RandomStream(long seed, long step, Purpose purpose) {
    this(seed, step, 0, purpose);
  }

  /**
   * The stream of {@code purpose} at a step of a run on one device of several.
   *
   * @param seed seed of the run, any value
   * @param step step, epoch or sample number, ≥ 0
   * @param rank index of the device, 0 ≤ rank &lt; 2²⁴
   * @param purpose what the numbers are for
   */
  public RandomStream(long seed, long step, int rank, Purpose purpose) {
    if (step < 0) {
      throw new IllegalArgumentException("step must be >= 0, got " + step);
    }
    if (rank < 0 || rank >= 1 << 24) {
      throw new IllegalArgumentException("rank must be in [0, 2^24), got " + rank);
    }
    key0 = (int) seed;
    key1 = (int) (seed >>> 32);
    counter1 = purpose.code << 24 | rank;
    counter2 = (int) step;
    counter3 = (int) (step >>> 32);
  }

  /** {@return the next 32 random bits} */
  public int nextInt() {
    if (used == 4) {
      philox(counter0++, counter1, counter2, counter3, key0, key1, block);
      used = 0;
    }
    return block[used++];
  }

  /** {@return the next number, uniform on [0, 1), a multiple of 2⁻⁵³} */
  public double nextUniform() {
    int high = nextInt();
    return uniform(high, nextInt());
  }

  private static double uniform(int high, int low) {
    return ((Integer.toUnsignedLong(high) << 21) ^ (Integer.toUnsignedLong(low) >>> 11)) * 0x1p-53;
  }

  /**
   * The next number, uniform on {0, …, bound − 1}; bias below bound·2⁻⁵³.
   *
   * @param bound number of values, &gt; 0
   * @return a number in [0, bound)
   */
  public int nextInt(int bound) {
    if (bound <= 0) {
      throw new IllegalArgumentException("bound must be > 0, got " + bound);
    }
    return (int) (nextUniform() * bound);
  }

  /** {@return the next standard normal number} */
  public double nextNormal() {
    if (!Double.isNaN(spareNormal)) {
      double normal = spareNormal;
      spareNormal = Double.NaN;
      return normal;
    }
    double radius = NormalPairs.radius(nextUniform());
    double turns = nextUniform();
    spareNormal = radius * NormalPairs.sin(turns);
    return radius * NormalPairs.cos(turns);
  }

  /**
   * The next standard normal numbers.
   *
   * @param count how many, ≥ 0
   * @return a new array
   */
  public double[] normals(int count) {
    double[] numbers = new double[count];
    for (int i = 0; i < count; i++) {
      numbers[i] = nextNormal();
    }
    return numbers;
  }

  /**
   * The next standard normal numbers, rounded to float32.
   *
   * @param target where they go
   * @param from index of the first
   * @param count how many, ≥ 0
   */
  public void normals(float[] target, int from, int count) {
    Objects.checkFromIndexSize(from, count, target.length);
    int next = from;
    int end = from + count;
    while (next < end && !atNewPair()) {
      target[next++] = (float) nextNormal();
    }
    int pairs = (end - next) / 2;
    int[] counter = {counter0, counter1, counter2, counter3};
    NormalPairs.ofThisThread().fill(counter, new int[] {key0, key1}, target, next, pairs);
    counter0 += pairs;
    if (next + 2 * pairs < end) {
      target[end - 1] = (float) nextNormal();
    }
  }

  /** Whether the next pair of normals is made of a block of random bits that nobody used yet. */
  private boolean atNewPair() {
    return used == 4 && Double.isNaN(spareNormal);
  }

  /** {@link #normals(float[], int, int)} for a new array, in parallel. */
  private float[] floatNormals(int count) {
    float[] numbers = new float[count];
    int start = 0;
    while (start < count && !atNewPair()) {
      numbers[start++] = (float) nextNormal();
    }
    int offset = start;
    int first = counter0;
    IntStream.range(0, Math.ceilDiv(count - offset, NUMBERS_AT_ONCE))
        .parallel()
        .forEach(
            part -> {
              int done = part * NUMBERS_AT_ONCE;
              new RandomStream(this, first + done / 2)
                  .normals(
                      numbers, offset + done, Math.min(NUMBERS_AT_ONCE, count - offset - done));
            });
    counter0 += (count - offset) / 2;
    if ((count - offset) % 2 == 1) {
      numbers[count - 1] = (float) nextNormal(); // once more, to keep the other of the pair
    }
    return numbers;
  }

  /** The same stream from another block on. */
  private RandomStream(RandomStream original, int block) {
    key0 = original.key0;
    key1 = original.key1;
    counter1 = original.counter1;
    counter2 = original.counter2;
    counter3 = original.counter3;
    counter0 = block;
  }

  /**
   * The next numbers uniform on [0, 1).
   *
   * @param count how many, ≥ 0
   * @return a new array
   */
  public double[] uniforms(int count) {
    double[] numbers = new double[count];
    for (int i = 0; i < count; i++) {
      numbers[i] = nextUniform();
    }
    return numbers;
  }

  /**
   * An array of standard normal numbers, filled in row-major order; its first rows are the same
   * whatever the number of rows.
   *
   * @param type float32 or float64
   * @param shape shape of the array
   * @return a new array
   */
  public INDArray normalArray(DataType type, long... shape) {
    int count = Math.toIntExact(Arrays.stream(shape).reduce(1, Math::multiplyExact));
    if (type == DataType.FLOAT) {
      return Batches.of(floatNormals(count), shape);
    }
    return Nd4j.createFromArray(normals(count)).reshape(shape).castTo(type);
  }

  /**
   * A random permutation of 0, …, count − 1 (Fisher–Yates).
   *
   * @param count how many, ≥ 0
   * @return a new array
   */
  public int[] permutation(int count) {
    int[] order = new int[count];
    for (int i = 0; i < count; i++) {
      int j = nextInt(i + 1);
      order[i] = order[j];
      order[j] = i;
    }
    return order;
  }

  /** One block of Philox4x32-10: 128 random bits from a 128-bit counter and a 64-bit key. */
  static void philox(int c0, int c1, int c2, int c3, int k0, int k1, int[] out) {
    for (int round = 0; round < ROUNDS; round++) {
      long product0 = Integer.toUnsignedLong(MULTIPLIER_0) * Integer.toUnsignedLong(c0);
      long product1 = Integer.toUnsignedLong(MULTIPLIER_1) * Integer.toUnsignedLong(c2);
      c0 = (int) (product1 >>> 32) ^ c1 ^ k0;
      c1 = (int) product1;
      c2 = (int) (product0 >>> 32) ^ c3 ^ k1;
      c3 = (int) product0;
      k0 += WEYL_0;
      k1 += WEYL_1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
  }
}
