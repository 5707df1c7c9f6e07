package org.meanflow.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.meanflow.core.random.Purpose;
import org.nd4j.linalg.api.buffer.DataType;

@Timeout(value = 60, unit = TimeUnit.SECONDS)
class BatchLoaderTest {
  private static final int SIZE = 23;
  private static final int BATCH = 5;
  private final DataOrder order = new DataOrder(7, SIZE, BATCH);

  /** Images that hold their index and a random number, each read in a millisecond or more. */
  private static class Slow extends PerImageDataset {
    final AtomicInteger read = new AtomicInteger();
    volatile int broken = -1;
    volatile int milliseconds = 1;

    Slow() {
      super(SIZE, SIZE, 1, 1, 2);
    }

    @Override
    protected void read(int index, @Nullable Visit visit, double[] image) throws DataException {
      read.incrementAndGet();
      if (index == broken) {
        throw new DataException("image " + index, "is broken", "mend it");
      }
      image[0] = index;
      image[1] = visit == null ? 0 : visit.random(Purpose.AUGMENTATION).nextUniform();
      try {
        Thread.sleep(milliseconds);
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
      }
    }

    @Override
    protected int label(int index) {
      return index;
    }
  }

  @Test
  void batchesAreThoseThatWouldBeReadAtOnce() throws DataException {
    Slow data = new Slow();
    try (BatchLoader loader = new BatchLoader(data, order::samples, 3, DataType.DOUBLE)) {
      // In turn, over the ends of epochs, then elsewhere as after a rollback or a resume.
      for (long step : List.of(0L, 1L, 2L, 3L, 4L, 5L, 6L, 7L, 8L, 9L, 2L, 3L, 100L, 101L, 0L)) {
        ImageDataset.Batch batch = loader.take(step);
        ImageDataset.Batch expected = data.batch(order.samples(step), 3, DataType.DOUBLE);
        assertThat(batch.x()).isEqualTo(expected.x());
        assertThat(batch.labels()).isEqualTo(order.indices(step));
      }
    }
  }

  @Test
  void whatIsReadAheadIsBounded() throws Exception {
    Slow data = new Slow();
    try (BatchLoader loader = new BatchLoader(data, order::samples, 3, DataType.FLOAT)) {
      assertThat(data.read).hasValue(0);
      loader.take(0);
      int before;
      do { // until nothing more is read
        before = data.read.get();
        Thread.sleep(100);
      } while (data.read.get() != before);
      int threads = Math.clamp(Runtime.getRuntime().availableProcessors() / 2, 1, 8);
      assertThat(before).isEqualTo(BATCH * (2 + threads)); // the one taken and those ahead
    }
  }

  @Test
  void whoComesLateDoesNotWait() throws Exception {
    Slow data = new Slow();
    data.milliseconds = 40;
    try (BatchLoader loader = new BatchLoader(data, order::samples, 3, DataType.FLOAT)) {
      loader.take(0);
      double first = loader.secondsWaited();
      assertThat(first).isGreaterThanOrEqualTo(BATCH * 40e-3);
      while (data.read.get() < 2 * BATCH) {
        Thread.sleep(1);
      }
      Thread.sleep(200); // the last image is read as well
      loader.take(1);
      // Reading takes 200 ms, taking what was read some microseconds.
      assertThat(loader.secondsWaited() - first).isLessThan(100e-3);
    }
  }

  @Test
  void anErrorReachesTheStepItBelongsTo() throws DataException {
    Slow data = new Slow();
    data.broken = order.indices(2)[4];
    try (BatchLoader loader = new BatchLoader(data, order::samples, 3, DataType.FLOAT)) {
      loader.take(0);
      loader.take(1);
      for (int i = 0; i < 2; i++) {
        assertThatThrownBy(() -> loader.take(2))
            .isInstanceOf(DataException.class)
            .hasMessage("image " + data.broken + ": is broken; mend it");
      }
      data.broken = -1;
      assertThat(loader.take(2).labels()).isEqualTo(order.indices(2));
    }
    ImageDataset faulty =
        new Slow() {
          @Override
          protected int label(int index) {
            throw new IllegalStateException("a bug");
          }
        };
    try (BatchLoader loader = new BatchLoader(faulty, order::samples, 3, DataType.FLOAT)) {
      assertThatThrownBy(() -> loader.take(0))
          .isInstanceOf(IllegalStateException.class)
          .hasMessage("a bug");
    }
  }

  @Test
  void closingWaitsUntilNothingIsRead() throws Exception {
    CountDownLatch reading = new CountDownLatch(1);
    AtomicInteger finished = new AtomicInteger();
    Slow data =
        new Slow() {
          @Override
          protected void read(int index, @Nullable Visit visit, double[] image) {
            reading.countDown();
            long end = System.nanoTime() + 50_000_000; // deaf to interrupts, as decoding is
            while (System.nanoTime() < end) {
              Thread.onSpinWait();
            }
            finished.incrementAndGet();
          }
        };
    DataOrder single = new DataOrder(7, SIZE, 1);
    BatchLoader loader = new BatchLoader(data, single::samples, 3, DataType.FLOAT);
    loader.take(0);
    loader.close();
    int after = finished.get();
    Thread.sleep(200);
    assertThat(finished).hasValue(after);
    assertThat(after).isBetween(1, 20);
  }

  @Test
  void anInterruptEndsTheWaiting() {
    Slow data = new Slow();
    try (BatchLoader loader = new BatchLoader(data, order::samples, 3, DataType.FLOAT)) {
      Thread.currentThread().interrupt();
      assertThatThrownBy(() -> loader.take(0))
          .isInstanceOf(DataException.class)
          .hasMessageContaining("interrupted");
      assertThat(Thread.interrupted()).isTrue();
    }
  }

  @Test
  void samplesMayBeAnyFunction() throws DataException {
    // Every third batch, as one of three devices asks for.
    Slow data = new Slow();
    try (BatchLoader loader =
        new BatchLoader(data, step -> order.samples(3 * step + 1), 3, DataType.FLOAT)) {
      for (int step = 0; step < 6; step++) {
        assertThat(loader.take(step).labels()).isEqualTo(order.indices(3L * step + 1));
      }
    }
    assertThat(Arrays.stream(order.samples(0).epochs())).containsOnly(0L);
  }
}
