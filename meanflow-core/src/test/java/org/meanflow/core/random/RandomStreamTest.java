package org.meanflow.core.random;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.meanflow.core.Closeness.assertClose;

import java.util.Arrays;
import java.util.HashSet;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.indexing.NDArrayIndex;

class RandomStreamTest {
  private static final int DRAWS = 200_000;

  /** Known answers of Philox4x32-10, from the file kat_vectors of Random123. */
  @Test
  void philoxGivesTheKnownAnswers() {
    assertThat(philox(0, 0, 0, 0, 0, 0))
        .containsExactly(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8);
    assertThat(philox(-1, -1, -1, -1, -1, -1))
        .containsExactly(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd);
    assertThat(philox(0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0))
        .containsExactly(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1);
  }

  @Test
  void streamWalksTheCounterFromZero() {
    long seed = 0x0123456789abcdefL;
    RandomStream stream = new RandomStream(seed, (7L << 32) + 5, 3, Purpose.TIME);
    int second = Purpose.TIME.code << 24 | 3;
    assertThat(new int[] {stream.nextInt(), stream.nextInt(), stream.nextInt(), stream.nextInt()})
        .containsExactly(philox(0, second, 5, 7, 0x89abcdef, 0x01234567));
    assertThat(stream.nextInt()).isEqualTo(philox(1, second, 5, 7, 0x89abcdef, 0x01234567)[0]);
  }

  /** The codes are in the files of runs: this list only ever grows. */
  @Test
  void purposeCodesNeverChange() {
    assertThat(Arrays.stream(Purpose.values()).map(p -> p.name() + "=" + p.code))
        .containsExactly(
            "INITIALISATION=0",
            "DATA_ORDER=1",
            "AUGMENTATION=2",
            "NOISE=3",
            "TIME=4",
            "LABEL_DROP=5",
            "SAMPLING=6",
            "POSTERIOR=7");
  }

  /** Mean of n uniforms: 1/2 ± 5·√(1/12n); mean square: 1/3 ± 5·√(4/45n). */
  @Test
  void uniformsHaveTheRightMoments() {
    double[] u = stream(Purpose.NOISE).uniforms(DRAWS);
    assertThat(Arrays.stream(u).allMatch(x -> x >= 0 && x < 1)).isTrue();
    assertClose(
        Arrays.stream(u).average().orElse(Double.NaN), 0.5, 5 * Math.sqrt(1.0 / 12 / DRAWS));
    assertClose(meanPower(u, 2), 1.0 / 3, 5 * Math.sqrt(4.0 / 45 / DRAWS));
  }

  /** The variances of n, n², n³ and n⁴ are 1, 2, 15 and 96; bounds are five standard deviations. */
  @Test
  void normalsHaveTheRightMoments() {
    double[] n = stream(Purpose.NOISE).normals(DRAWS);
    assertClose(meanPower(n, 1), 0, 5 * Math.sqrt(1.0 / DRAWS));
    assertClose(meanPower(n, 2), 1, 5 * Math.sqrt(2.0 / DRAWS));
    assertClose(meanPower(n, 3), 0, 5 * Math.sqrt(15.0 / DRAWS));
    assertClose(meanPower(n, 4), 3, 5 * Math.sqrt(96.0 / DRAWS));
  }

  /**
   * Logarithm, sine and cosine are rounded by 10⁻¹⁶, angles up to 2π by as much, radii are below 9.
   */
  @Test
  void normalsAreThoseOfTheDefinition() {
    RandomStream bits = stream(Purpose.NOISE);
    double[] n = stream(Purpose.NOISE).normals(DRAWS);
    for (int i = 0; i < DRAWS; i += 2) {
      double radius = Math.sqrt(-2 * StrictMath.log(1 - bits.nextUniform()));
      double angle = 2 * Math.PI * bits.nextUniform();
      assertClose(n[i], radius * StrictMath.cos(angle), 1e-14);
      assertClose(n[i + 1], radius * StrictMath.sin(angle), 1e-14);
    }
  }

  @Test
  void radiiAreRightAtTheEndsOfTheInterval() {
    assertThat(NormalPairs.radius(0)).isZero();
    for (double u : new double[] {0x1p-53, 0x1p-30, 0.1, 0.29, 0.3, 0.5, 1 - 0x1p-53}) {
      double expected = Math.sqrt(-2 * StrictMath.log1p(-u));
      assertClose(NormalPairs.radius(u), expected, 1e-15 * expected);
    }
  }

  /** Many at once, from any place on, are the same to the last bit as one by one. */
  @Test
  void normalsAtOnceAreThoseOneByOne() {
    int count = 3001;
    for (int skip = 0; skip < 5; skip++) {
      RandomStream alone = stream(Purpose.SAMPLING);
      RandomStream together = stream(Purpose.SAMPLING);
      for (int i = 0; i < skip; i++) {
        assertThat(together.nextNormal()).isEqualTo(alone.nextNormal());
      }
      float[] numbers = new float[count + 2];
      together.normals(numbers, 1, count);
      for (int i = 0; i < count; i++) {
        assertThat(numbers[1 + i]).isEqualTo((float) alone.nextNormal());
      }
      assertThat(numbers[0]).isZero();
      assertThat(numbers[count + 1]).isZero();
      assertThat(together.nextNormal()).isEqualTo(alone.nextNormal());
    }
  }

  /** Both numbers of a Box–Muller pair and their neighbours are uncorrelated. */
  @Test
  void successiveNormalsAreUncorrelated() {
    double[] n = stream(Purpose.NOISE).normals(DRAWS);
    double sum = 0;
    for (int i = 1; i < n.length; i++) {
      sum += n[i - 1] * n[i];
    }
    assertClose(sum / DRAWS, 0, 5 / Math.sqrt(DRAWS));
  }

  @Test
  void differentPurposesStepsRanksAndSeedsGiveDifferentStreams() {
    Set<Integer> first = new HashSet<>();
    for (Purpose purpose : Purpose.values()) {
      first.add(new RandomStream(1, 0, purpose).nextInt());
      first.add(new RandomStream(1, 1, purpose).nextInt());
      first.add(new RandomStream(1, 1L << 32, purpose).nextInt());
      first.add(new RandomStream(1, 0, 1, purpose).nextInt());
      first.add(new RandomStream(2, 0, purpose).nextInt());
      first.add(new RandomStream(1L << 32 | 1, 0, purpose).nextInt());
    }
    assertThat(first).hasSize(6 * Purpose.values().length);
  }

  /** The correlation of n independent pairs is 0 ± 5/√n. */
  @ParameterizedTest
  @EnumSource(Purpose.class)
  void purposesAreIndependent(Purpose purpose) {
    int count = 20_000;
    double[] a = stream(purpose).normals(count);
    for (Purpose other : Purpose.values()) {
      if (other != purpose) {
        double[] b = stream(other).normals(count);
        double sum = 0;
        for (int i = 0; i < count; i++) {
          sum += a[i] * b[i];
        }
        assertClose(sum / count, 0, 5 / Math.sqrt(count));
      }
    }
  }

  @ParameterizedTest
  @EnumSource(
      value = DataType.class,
      names = {"FLOAT", "DOUBLE"})
  void rowsDoNotDependOnTheirNumber(DataType type) {
    INDArray five = stream(Purpose.NOISE).normalArray(type, 5, 3, 1);
    INDArray nine = stream(Purpose.NOISE).normalArray(type, 9, 3, 1);
    assertThat(five.dataType()).isEqualTo(type);
    assertThat(five.shape()).containsExactly(5, 3, 1);
    assertClose(nine.get(NDArrayIndex.interval(0, 5)), five, 0);
  }

  @Test
  void permutationContainsEachIndexOnce() {
    int[] order = stream(Purpose.DATA_ORDER).permutation(1000);
    assertThat(order).isNotEqualTo(Arrays.stream(order).sorted().toArray());
    assertThat(Arrays.stream(order).sorted().toArray())
        .isEqualTo(java.util.stream.IntStream.range(0, 1000).toArray());
    assertThat(stream(Purpose.DATA_ORDER).permutation(0)).isEmpty();
  }

  /** Each of the 6 permutations of 3 has probability 1/6: ± 5·√(5/36n). */
  @Test
  void permutationsAreEquallyLikely() {
    int[] counts = new int[27];
    RandomStream stream = stream(Purpose.DATA_ORDER);
    int count = 60_000;
    for (int i = 0; i < count; i++) {
      int[] order = stream.permutation(3);
      counts[9 * order[0] + 3 * order[1] + order[2]]++;
    }
    int[] present = Arrays.stream(counts).filter(c -> c > 0).toArray();
    assertThat(present).hasSize(6);
    for (int c : present) {
      assertClose((double) c / count, 1.0 / 6, 5 * Math.sqrt(5.0 / 36 / count));
    }
  }

  @Test
  void refusesWhatIsOutOfRange() {
    assertThatThrownBy(() -> new RandomStream(0, -1, Purpose.TIME))
        .hasMessage("step must be >= 0, got -1");
    assertThatThrownBy(() -> new RandomStream(0, 0, 1 << 24, Purpose.TIME))
        .hasMessageContaining("rank must be in [0, 2^24)");
    assertThatThrownBy(() -> stream(Purpose.TIME).nextInt(0))
        .hasMessage("bound must be > 0, got 0");
  }

  private static RandomStream stream(Purpose purpose) {
    return new RandomStream(20250519, 3, purpose);
  }

  private static int[] philox(int c0, int c1, int c2, int c3, int k0, int k1) {
    int[] out = new int[4];
    RandomStream.philox(c0, c1, c2, c3, k0, k1, out);
    return out;
  }

  private static double meanPower(double[] values, int power) {
    return Arrays.stream(values).map(x -> Math.pow(x, power)).average().orElse(Double.NaN);
  }
}
