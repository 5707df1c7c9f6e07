package org.meanflow.core.batch;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;
import org.nd4j.linalg.indexing.NDArrayIndex;

class BatchesTest {
  /** y ← (i + 1)·x − y of sample i. */
  private static final Batches.Row ROW =
      (i, xs, ys) -> {
        for (int j = 0; j < xs.length; j++) {
          xs[j] = (i + 1) * xs[j] - ys[j];
        }
      };

  /** Batches computed by one thread and by several, in both types, whole and in part. */
  @ParameterizedTest
  @CsvSource({"FLOAT, 5, 5", "DOUBLE, 5, 3", "FLOAT, 5, 0", "FLOAT, 1000, 999", "DOUBLE, 1000, 7"})
  void mapsTheFirstSamplesAndKeepsTheOthers(DataType type, int batch, int count) {
    INDArray x = Nd4j.rand(type, batch, 3, 20);
    INDArray y =
        Nd4j.rand(type, batch, 3, 20).get(NDArrayIndex.interval(0, count == 0 ? 1 : count));
    INDArray some = count == 0 ? Nd4j.create(type, 0, 3, 20) : y;
    INDArray before = x.dup();

    INDArray result = Batches.map(x, some, ROW);

    assertThat(result.dataType()).isEqualTo(type);
    assertThat(result.shape()).containsExactly(batch, 3, 20);
    assertThat(x).isEqualTo(before);
    for (int i = 0; i < batch; i++) {
      for (int j = 0; j < 60; j++) {
        double expected = x.getDouble(i, j / 20, j % 20);
        if (i < count) {
          expected = (i + 1) * expected - y.getDouble(i, j / 20, j % 20);
        }
        assertThat(result.getDouble(i, j / 20, j % 20))
            .isEqualTo(type == DataType.FLOAT ? (float) expected : expected);
      }
    }
  }

  @Test
  void takesAnyLayout() {
    INDArray x = Nd4j.rand(DataType.FLOAT, 6, 4).dup('f');
    INDArray wide = Nd4j.rand(DataType.FLOAT, 6, 9);
    INDArray y = wide.get(NDArrayIndex.all(), NDArrayIndex.interval(2, 6));
    INDArray rows = Nd4j.rand(DataType.FLOAT, 8, 4).get(NDArrayIndex.interval(2, 8));

    assertThat(Batches.map(x, y, ROW)).isEqualTo(Batches.map(x.dup('c'), y.dup('c'), ROW));
    assertThat(Batches.map(rows, y, ROW)).isEqualTo(Batches.map(rows.dup('c'), y.dup('c'), ROW));
  }

  @Test
  void refusesWhatDoesNotFit() {
    INDArray x = Nd4j.rand(DataType.FLOAT, 3, 4);
    for (INDArray y :
        new INDArray[] {
          Nd4j.rand(DataType.FLOAT, 4, 4),
          Nd4j.rand(DataType.FLOAT, 3, 5),
          Nd4j.rand(DataType.DOUBLE, 3, 4)
        }) {
      assertThatThrownBy(() -> Batches.map(x, y, ROW))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessageContaining("shape of some of its samples, FLOAT[3, 4], got " + y.dataType());
    }
  }

  @Test
  void makesAnArrayOfItsNumbers() {
    assertThat(Batches.of(new float[] {1, 2, 3, 4, 5, 6}, 2, 3))
        .isEqualTo(Nd4j.createFromArray(new float[][] {{1, 2, 3}, {4, 5, 6}}));
    assertThatThrownBy(() -> Batches.of(new float[5], 2, 3))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("shape [2, 3] must have 6 elements, got 5");
  }
}
