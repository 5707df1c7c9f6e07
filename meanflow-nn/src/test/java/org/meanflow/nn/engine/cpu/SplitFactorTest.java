package org.meanflow.nn.engine.cpu;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.lang.foreign.ValueLayout;
import java.util.Random;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.LinearKernels;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/** float32 numbers as sums of three bfloat16 ones, and products of them. */
class SplitFactorTest {
  private static final int BLOCK = FactorPacking.BLOCK;
  private static final int ROWS = 2 * BLOCK;
  private static final int COLUMNS = 3 * BLOCK;

  @BeforeEach
  void engineIsThere() {
    String reason = new CpuEngineProvider().unavailableBecause();
    assumeTrue(reason == null, reason);
    assumeTrue(FactorPacking.fits(ROWS, COLUMNS), "vectors are too long for squares of 32 numbers");
  }

  /** Numbers of either sign, from 10⁻⁶ to 10⁶. */
  private static float[] numbers(long seed, int count) {
    Random random = new Random(seed);
    float[] numbers = new float[count];
    for (int i = 0; i < count; i++) {
      numbers[i] = (float) (random.nextGaussian() * Math.pow(10, 12 * random.nextDouble() - 6));
    }
    return numbers;
  }

  /**
   * The four kinds of packing write number (row, column) where they say, its parts add up to it.
   */
  @ParameterizedTest
  @CsvSource({"SPLIT", "HALF"})
  void packingsPlaceEveryNumber(Factor factor) {
    float[] numbers = numbers(1, ROWS * COLUMNS);
    numbers[5] = Float.NaN;
    numbers[6] = Float.intBitsToFloat(0x7fffffff);
    try (Memory memory = new Memory()) {
      long from = memory.take(numbers.length * Float.BYTES).address;
      for (int i = 0; i < numbers.length; i++) {
        Simd.set(from, i, numbers[i]);
      }
      Scratch scratch = new Scratch(0, memory);
      FactorPacking packing = FactorPacking.of(factor, false);
      long part = 2L * numbers.length * Short.BYTES;
      long to = memory.take(factor.parts * part).address;

      packing.rows(from, 4 * COLUMNS, to, 2 * (COLUMNS + 32), part, ROWS, COLUMNS);
      check(numbers, factor, to, part, (row, column) -> row * (COLUMNS + 32) + column);

      packing.transposedRows(from, COLUMNS, COLUMNS, ROWS, to, 2 * (ROWS + 32), part, scratch);
      check(numbers, factor, to, part, (row, column) -> column * (ROWS + 32) + row);

      packing.pairs(from, COLUMNS, ROWS, COLUMNS, to, part);
      check(numbers, factor, to, part, (row, column) -> pairPlace(row, column, ROWS));

      packing.transposedPairs(from, COLUMNS, COLUMNS, ROWS, to, part, scratch);
      check(numbers, factor, to, part, (row, column) -> pairPlace(column, row, COLUMNS));
    }
  }

  /** Blocks of columns, in each the rows in pairs. */
  private static int pairPlace(int row, int column, int rows) {
    return column / BLOCK * BLOCK * rows + row / 2 * 2 * BLOCK + column % BLOCK * 2 + row % 2;
  }

  /** Six parts in each row on the left, and above each other in each block on the right. */
  @Test
  void joinedPackingsPlaceEveryPart() {
    int[] left = {2, 1, 0, 1, 0, 0};
    int[] right = {0, 1, 2, 0, 1, 0};
    float[] numbers = numbers(5, ROWS * COLUMNS);
    try (Memory memory = new Memory()) {
      long from = memory.take(numbers.length * Float.BYTES).address;
      for (int i = 0; i < numbers.length; i++) {
        Simd.set(from, i, numbers[i]);
      }
      Scratch scratch = new Scratch(0, memory);
      FactorPacking packing = FactorPacking.of(Factor.JOINED, false);
      int stride = 6 * COLUMNS + 32;
      long to = memory.take(2L * ROWS * (6 * COLUMNS + 32)).address;

      packing.rows(from, 4 * COLUMNS, to, 2 * stride, 2 * COLUMNS, ROWS, COLUMNS);
      check(numbers, left, to, (part, row, column) -> row * stride + part * COLUMNS + column);

      packing.pairs(from, COLUMNS, ROWS, COLUMNS, to, FactorPacking.joinedPart(ROWS));
      check(
          numbers,
          right,
          to,
          (part, row, column) -> pairPlace(part * ROWS + row, column, 6 * ROWS));

      packing.transposedPairs(
          from, COLUMNS, COLUMNS, ROWS, to, FactorPacking.joinedPart(COLUMNS), scratch);
      check(
          numbers,
          right,
          to,
          (part, row, column) -> pairPlace(part * COLUMNS + column, row, 6 * COLUMNS));
    }
  }

  private interface PartPlace {
    int of(int part, int row, int column);
  }

  /** The parts of number x: what is left of it, rounded to bfloat16, ties away from zero. */
  private static float[] parts(float x) {
    float[] parts = new float[3];
    float rest = x;
    for (int i = 0; i < parts.length; i++) {
      parts[i] = Float.intBitsToFloat(Float.floatToRawIntBits(rest) + 0x8000 & 0xffff0000);
      rest -= parts[i];
    }
    assertThat(rest).isZero();
    return parts;
  }

  private static void check(float[] numbers, int[] order, long to, PartPlace place) {
    for (int i = 0; i < numbers.length; i++) {
      float[] parts = parts(numbers[i]);
      for (int p = 0; p < order.length; p++) {
        int bits =
            Simd.ALL.get(
                ValueLayout.JAVA_SHORT,
                to + (long) place.of(p, i / COLUMNS, i % COLUMNS) * Short.BYTES);
        assertThat(Float.intBitsToFloat(bits << 16))
            .as("part %d of number %d", p, i)
            .isEqualTo(parts[order[p]]);
      }
    }
  }

  private interface Place {
    int of(int row, int column);
  }

  private static void check(float[] numbers, Factor factor, long to, long part, Place place) {
    for (int i = 0; i < numbers.length; i++) {
      long address = to + (long) place.of(i / COLUMNS, i % COLUMNS) * Short.BYTES;
      float sum = 0;
      // The smallest first: so no sum is rounded.
      for (int p = factor.parts - 1; p >= 0; p--) {
        int bits = Simd.ALL.get(ValueLayout.JAVA_SHORT, address + p * part);
        sum += Float.intBitsToFloat(bits << 16);
      }
      if (Float.isNaN(numbers[i])) {
        assertThat(sum).isNaN();
      } else if (factor == Factor.SPLIT) {
        assertThat(sum).as("number %d", i).isEqualTo(numbers[i]);
      } else {
        assertThat(Math.abs(sum - numbers[i])).isLessThanOrEqualTo(Math.abs(numbers[i]) * 0x1p-8f);
      }
    }
  }

  /** Errors of y = x wᵀ, x̄ = ȳ w and w̄ = ȳᵀ x against float64, relative to Σ|products|. */
  private record Errors(double y, double gx, double gw) {}

  private static Errors errors(boolean split, int rows, int in, int out) {
    INDArray x = Nd4j.createFromArray(numbers(2, rows * in)).reshape(rows, in);
    INDArray w = Nd4j.createFromArray(numbers(3, out * in)).reshape(out, in);
    INDArray g = Nd4j.createFromArray(numbers(4, rows * out)).reshape(rows, out);
    try (CpuEngine engine = new CpuEngine(Precision.FP32, 2, split);
        Tensor xs = engine.allocate(rows, in);
        Tensor ws = engine.allocate(out, in);
        Tensor gs = engine.allocate(rows, out);
        Tensor y = engine.allocate(rows, out);
        Tensor gx = engine.allocate(rows, in);
        Tensor gw = engine.allocate(out, in)) {
      engine.write(x, xs);
      engine.write(w, ws);
      engine.write(g, gs);
      LinearKernels kernels = engine.kernels().linear();
      kernels.linear(xs, ws, null, 0, y);
      kernels.linearBackward(xs, ws, gs, new Cotangent(gx, false), new Cotangent(gw, false), null);
      return new Errors(
          error(engine.read(y), x, w.transpose()),
          error(engine.read(gx), g, w),
          error(engine.read(gw), g.transpose(), x));
    }
  }

  /** Root mean square of |c − ab| / (|a||b|). */
  private static double error(INDArray c, INDArray a, INDArray b) {
    double[][] left = a.toDoubleMatrix();
    double[][] right = b.transpose().toDoubleMatrix();
    double[][] actual = c.toDoubleMatrix();
    double sum = 0;
    for (int i = 0; i < left.length; i++) {
      for (int j = 0; j < right.length; j++) {
        double expected = 0;
        double size = 0;
        for (int k = 0; k < left[i].length; k++) {
          expected += left[i][k] * right[j][k];
          size += Math.abs(left[i][k] * right[j][k]);
        }
        sum += Math.pow((actual[i][j] - expected) / size, 2);
      }
    }
    return Math.sqrt(sum / left.length / right.length);
  }

  /**
   * Several tiles, panels and chunks, the last of each smaller, and weights so narrow that {@link
   * Factor#JOINED} serves y and x̄; w̄ of these is a plain product. AMX adds up 32 products by
   * themselves before they meet the sum; AVX-512 rounds as often as with floats.
   */
  @ParameterizedTest
  @CsvSource({
    "160, 416, 800, false",
    "1056, 320, 288, false",
    "96, 800, 416, false",
    "160, 128, 160, true",
    "352, 192, 160, true",
    "192, 448, 832, false",
    "1088, 320, 448, false",
    "192, 128, 192, true"
  })
  void splitProductsAreAsExactAsThoseOfFloatsOrMoreSo(int rows, int in, int out, boolean narrow) {
    assumeTrue(OneDnn.hasBf16(), "no products of bfloat16 here");
    boolean fits = FactorPacking.fits(rows, in) && FactorPacking.fits(rows, out);
    assumeTrue(fits, "sides are no multiples of a block here");
    Errors floats = errors(false, rows, in, out);
    Errors split = errors(true, rows, in, out);
    System.out.printf("errors of floats %s, split %s%n", floats, split);
    double most = OneDnn.hasAmx() ? 1 : 1.1;
    assertThat(split.y / floats.y).isLessThan(most);
    assertThat(split.gx / floats.gx).isLessThan(most);
    if (!narrow) {
      assertThat(split.gw / floats.gw).isLessThan(most);
    }
  }

  @Test
  void squaresAreTransposed() {
    try (Memory memory = new Memory()) {
      int side = Transposition.SIDE;
      long from = memory.take(Transposition.BYTES).address;
      long spare = memory.take(Transposition.BYTES).address;
      long to = memory.take(2 * Transposition.BYTES).address;
      for (int i = 0; i < side * side; i++) {
        Simd.set(from, i, i);
      }
      Transposition.run(from, spare, to, 2L * Simd.BYTES);
      for (int i = 0; i < side * side; i++) {
        assertThat(Simd.get(to, i / side * 2 * side + i % side))
            .isEqualTo(i % side * side + i / side);
      }
    }
  }
}
