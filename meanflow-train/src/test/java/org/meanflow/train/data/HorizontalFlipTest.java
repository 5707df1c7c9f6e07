package org.meanflow.train.data;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.nd4j.linalg.api.buffer.DataType;

class HorizontalFlipTest {
  private static final int SIZE = 50;

  /** Images 2×3×4 whose values are their positions. */
  private static final PerImageDataset POSITIONS =
      new PerImageDataset(SIZE, 3, 2, 3, 4) {
        @Override
        protected void read(int index, @Nullable Visit visit, double[] image) {
          Arrays.setAll(image, i -> 100 * index + i);
        }

        @Override
        protected int label(int index) {
          return index % 3;
        }
      };

  private static boolean[] mirrored(long epoch, long seed) throws DataException {
    int[] indices = new int[SIZE];
    long[] epochs = new long[SIZE];
    Arrays.setAll(indices, i -> i);
    Arrays.fill(epochs, epoch);
    ImageDataset.Batch batch =
        new HorizontalFlip(POSITIONS)
            .batch(new DataOrder.Samples(indices, epochs), seed, DataType.FLOAT);
    boolean[] mirrored = new boolean[SIZE];
    for (int i = 0; i < SIZE; i++) {
      assertThat(batch.labels()[i]).isEqualTo(i % 3);
      mirrored[i] = batch.x().getInt(i, 0, 0, 0) % 100 != 0;
      for (int j = 0; j < 24; j++) {
        int column = mirrored[i] ? 3 - j % 4 : j % 4;
        assertThat(batch.x().getInt(i, j / 12, j / 4 % 3, column)).isEqualTo(100 * i + j);
      }
    }
    return mirrored;
  }

  @Test
  void aboutHalfAreMirroredAsAFunctionOfSeedEpochAndIndex() throws DataException {
    int count = 0;
    for (int epoch = 0; epoch < 40; epoch++) {
      boolean[] mirrored = mirrored(epoch, 1);
      assertThat(mirrored(epoch, 1)).isEqualTo(mirrored);
      for (boolean each : mirrored) {
        count += each ? 1 : 0;
      }
    }
    // 2000 throws: the standard deviation is 22, four are 90.
    assertThat(count).isBetween(910, 1090);
    assertThat(mirrored(1, 1)).isNotEqualTo(mirrored(0, 1));
    assertThat(mirrored(0, 2)).isNotEqualTo(mirrored(0, 1));
  }

  @Test
  void withoutTrainingNothingIsMirrored() throws DataException {
    int[] all = new int[SIZE];
    Arrays.setAll(all, i -> i);
    HorizontalFlip flip = new HorizontalFlip(POSITIONS);
    assertThat(flip.batch(all, DataType.DOUBLE).x())
        .isEqualTo(POSITIONS.batch(all, DataType.DOUBLE).x());
  }
}
