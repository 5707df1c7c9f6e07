package org.meanflow.train.data;

import java.util.ArrayDeque;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.function.LongFunction;
import org.nd4j.linalg.api.buffer.DataType;

/**
 * Reads the batches of the next steps on threads of its own while a step computes. What a step gets
 * does not depend on it: batches are a function of (seed, step).
 *
 * <p>For one caller at a time.
 */
public final class BatchLoader implements AutoCloseable {
  private static final int MOST_THREADS = 8;
  private static final int CLOSING_SECONDS = 60;

  private final ImageDataset data;
  private final LongFunction<DataOrder.Samples> samples;
  private final long seed;
  private final DataType type;
  private final int ahead;
  private final ExecutorService threads;

  /** The batches being read, of {@link #first} and the steps that follow. */
  private final ArrayDeque<Future<ImageDataset.Batch>> pending = new ArrayDeque<>();

  private long first;
  private long waitedNanos;

  /**
   * Prepares to read. Nothing is read before the first {@link #take}.
   *
   * @param data what to read from; stays the caller's to close, after this
   * @param samples the samples of each step, such as {@link DataOrder#samples}; called by several
   *     threads
   * @param seed seed of augmentation
   * @param type float32 or float64
   */
  public BatchLoader(
      ImageDataset data, LongFunction<DataOrder.Samples> samples, long seed, DataType type) {
    this.data = data;
    this.samples = samples;
    this.seed = seed;
    this.type = type;
    int count = Math.clamp(Runtime.getRuntime().availableProcessors() / 2, 1, MOST_THREADS);
    this.ahead = count + 1;
    this.threads =
        Executors.newFixedThreadPool(
            count, Thread.ofPlatform().daemon().name("batch-loader-", 0).factory());
  }

  /**
   * The batch of a step. Steps are mostly asked for in turn; any other step may be, and then
   * nothing of it is ready.
   *
   * @param step training step, ≥ 0
   * @return its batch
   * @throws DataException if it cannot be read, or the thread is interrupted meanwhile; asking
   *     again reads again
   */
  public ImageDataset.Batch take(long step) throws DataException {
    if (step != first) {
      forget();
      first = step;
    }
    while (pending.size() <= ahead) {
      long next = first + pending.size();
      pending.add(threads.submit(() -> data.batch(samples.apply(next), seed, type)));
    }
    long start = System.nanoTime();
    try {
      ImageDataset.Batch batch = pending.element().get();
      pending.remove();
      first++;
      return batch;
    } catch (ExecutionException e) {
      forget();
      switch (e.getCause()) {
        case DataException unreadable -> throw unreadable;
        case RuntimeException failure -> throw failure;
        case Error failure -> throw failure;
        case null, default -> throw new AssertionError(e);
      }
    } catch (InterruptedException e) {
      forget();
      Thread.currentThread().interrupt();
      throw new DataException(
          "step " + step, "the thread was interrupted while it waited for data", "resume", e);
    } finally {
      waitedNanos += System.nanoTime() - start;
    }
  }

  /** {@return for how long callers of {@link #take} had to wait, in all, in seconds} */
  public double secondsWaited() {
    return waitedNanos * 1e-9;
  }

  private void forget() {
    pending.forEach(batch -> batch.cancel(true));
    pending.clear();
  }

  /** Stops reading, and waits until nothing is being read any more. */
  @Override
  public void close() {
    forget();
    threads.shutdownNow();
    try {
      if (!threads.awaitTermination(CLOSING_SECONDS, TimeUnit.SECONDS)) {
        throw new IllegalStateException(
            "data are still being read after " + CLOSING_SECONDS + " s");
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }
}
