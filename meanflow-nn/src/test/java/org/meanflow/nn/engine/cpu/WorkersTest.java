package org.meanflow.nn.engine.cpu;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicIntegerArray;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class WorkersTest {

  /** Loops of all lengths follow each other at once, so that workers come late, too. */
  @ParameterizedTest
  @ValueSource(ints = {1, 2, 3, 8})
  void everyItemIsRunOnce(int count) {
    try (Memory memory = new Memory();
        Workers workers = new Workers(count, memory, () -> {})) {
      for (int round = 0; round < 2000; round++) {
        int items = round % 67;
        AtomicIntegerArray runs = new AtomicIntegerArray(items + 1);
        workers.run(items, (item, scratch) -> runs.incrementAndGet(item));
        for (int item = 0; item < items; item++) {
          assertThat(runs.get(item)).isEqualTo(1);
        }
      }
    }
  }

  /** The first item of a range waits for all others, which only the other worker can run then. */
  @Test
  void aWorkerThatIsThroughHelpsTheOthers() {
    int items = 20;
    try (Memory memory = new Memory();
        Workers workers = new Workers(2, memory, () -> {})) {
      for (int waiting : new int[] {0, items / 2}) {
        CountDownLatch others = new CountDownLatch(items - 1);
        AtomicInteger inTime = new AtomicInteger();
        workers.run(
            items,
            (item, scratch) -> {
              if (item == waiting) {
                inTime.addAndGet(await(others) ? 1 : 0);
              } else {
                others.countDown();
              }
            });
        assertThat(inTime).hasValue(1);
      }
    }
  }

  private static boolean await(CountDownLatch latch) {
    try {
      return latch.await(20, TimeUnit.SECONDS);
    } catch (InterruptedException e) {
      throw new IllegalStateException(e);
    }
  }

  @Test
  void sleepingWorkersWakeUp() throws InterruptedException {
    try (Memory memory = new Memory();
        Workers workers = new Workers(2, memory, () -> {})) {
      for (int round = 0; round < 5; round++) {
        Thread.sleep(5);
        CountDownLatch both = new CountDownLatch(2);
        AtomicInteger met = new AtomicInteger();
        workers.run(
            2,
            (item, scratch) -> {
              both.countDown();
              met.addAndGet(await(both) ? 1 : 0);
            });
        assertThat(met).hasValue(2);
      }
    }
  }

  @Test
  void aLoopWithinALoopIsRunToo() {
    try (Memory memory = new Memory();
        Workers workers = new Workers(2, memory, () -> {})) {
      AtomicInteger inner = new AtomicInteger();
      workers.run(
          10,
          (item, scratch) -> {
            if (scratch.worker == 0) {
              workers.run(3, (other, itsScratch) -> inner.incrementAndGet());
            } else {
              inner.addAndGet(3);
            }
          });
      assertThat(inner).hasValue(30);
    }
  }

  @Test
  void aFailureOnAnyThreadReachesTheCaller() {
    try (Memory memory = new Memory();
        Workers workers = new Workers(3, memory, () -> {})) {
      for (int round = 0; round < 3; round++) {
        int failing = round * 40;
        assertThatThrownBy(
                () ->
                    workers.run(
                        100,
                        (item, scratch) -> {
                          if (item == failing) {
                            throw new IllegalStateException("item " + item);
                          }
                        }))
            .isInstanceOf(IllegalStateException.class)
            .hasMessage("item " + failing);
      }
      boolean[] done = new boolean[1000];
      workers.run(done.length, (item, scratch) -> done[item] = true);
      assertThat(done).doesNotContain(false);
    }
  }
}
