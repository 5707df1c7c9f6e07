package org.meanflow.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Arrays;
import java.util.stream.IntStream;
import java.util.stream.LongStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;

class DataOrderTest {

  /** Batches that divide the set, do not, equal it, exceed it, and exceed it several times. */
  @ParameterizedTest
  @CsvSource({"12, 4", "10, 4", "7, 7", "7, 10", "3, 20", "1, 1", "1, 5"})
  void everyEpochIsAPermutation(int size, int batch) {
    int epochs = 6;
    DataOrder order = new DataOrder(5, size, batch);
    int[] seen =
        LongStream.rangeClosed(0, (long) epochs * size / batch)
            .mapToObj(order::indices)
            .flatMapToInt(Arrays::stream)
            .toArray();
    for (int epoch = 0; epoch < epochs; epoch++) {
      int[] part = Arrays.copyOfRange(seen, epoch * size, (epoch + 1) * size);
      assertThat(part)
          .isEqualTo(new RandomStream(5, epoch, Purpose.DATA_ORDER).permutation(size))
          .containsExactlyInAnyOrder(IntStream.range(0, size).toArray());
    }
  }

  @Test
  void aStepIsAFunctionOfItsNumber() {
    DataOrder forwards = new DataOrder(1, 100, 32);
    int[][] expected = LongStream.range(0, 20).mapToObj(forwards::indices).toArray(int[][]::new);
    DataOrder backwards = new DataOrder(1, 100, 32);
    for (int step = 19; step >= 0; step--) {
      assertThat(backwards.indices(step)).isEqualTo(expected[step]);
      assertThat(new DataOrder(1, 100, 32).indices(step)).isEqualTo(expected[step]);
    }
  }

  @Test
  void epochsAndSeedsDiffer() {
    DataOrder order = new DataOrder(1, 100, 100);
    assertThat(order.indices(0)).isNotEqualTo(order.indices(1));
    assertThat(order.indices(0)).isNotEqualTo(new DataOrder(2, 100, 100).indices(0));
  }

  @Test
  void callersMayChangeTheIndices() {
    DataOrder order = new DataOrder(1, 8, 8);
    int[] first = order.indices(0);
    int[] copy = first.clone();
    Arrays.fill(first, -1);
    assertThat(order.indices(0)).isEqualTo(copy);
  }

  @Test
  void epochIsThatOfTheFirstSample() {
    DataOrder order = new DataOrder(1, 10, 4);
    assertThat(LongStream.range(0, 6).map(order::epoch)).containsExactly(0L, 0L, 0L, 1L, 1L, 2L);
    assertThat(new DataOrder(1, 1, 1).epoch(1L << 40)).isEqualTo(1L << 40);
  }

  @Test
  void refusesImpossibleSizes() {
    assertThatThrownBy(() -> new DataOrder(0, 0, 1)).hasMessage("size must be >= 1, got 0");
    assertThatThrownBy(() -> new DataOrder(0, 1, 0)).hasMessage("batch must be >= 1, got 0");
    DataOrder order = new DataOrder(0, 10, 4);
    assertThatThrownBy(() -> order.indices(-1)).hasMessage("step must be >= 0, got -1");
    assertThatThrownBy(() -> order.epoch(-1)).hasMessage("step must be >= 0, got -1");
    assertThatThrownBy(() -> order.indices(Long.MAX_VALUE)).isInstanceOf(ArithmeticException.class);
  }
}
