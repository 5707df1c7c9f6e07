package org.meanflow.nn.engine.cpu;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import org.jspecify.annotations.Nullable;

/**
 * The one pool of threads that all kernels run on. The calling thread is worker 0. Items of work
 * are handed out one by one, so who computes what is open, and no result may depend on it.
 *
 * <p>A worker that finds no work spins until the others have finished theirs and for some
 * microseconds more, about the time between two kernels of a step, and then sleeps, so that it takes
 * nothing from others.
 */
@SuppressWarnings("ReferenceEquality") // of threads and jobs
final class Workers implements AutoCloseable {
  /** Waking a sleeping thread takes about 50 µs; most pauses between kernels are shorter. */
  private static final long SPIN_NANOS = 50_000;

  private static final int SPINS_BETWEEN_CLOCKS = 64;

  private final Thread[] threads;
  private final List<Scratch> scratches = new ArrayList<>();
  private final AtomicInteger nextItem = new AtomicInteger();
  private final AtomicInteger running = new AtomicInteger();
  private final AtomicReference<@Nullable Throwable> failure = new AtomicReference<>();
  private final Runnable prepareThread;
  private volatile @Nullable Job job;
  private volatile boolean closed;
  private @Nullable Thread caller;
  private volatile boolean busy;

  /** A loop over items. */
  @FunctionalInterface
  interface Task {
    void run(int item, Scratch scratch);
  }

  private record Job(int items, Task task) {}

  /**
   * Starts the threads.
   *
   * @param count threads that compute, the caller's included, ≥ 1
   * @param memory where their scratch memory comes from
   * @param prepareThread run once on every thread that computes
   */
  Workers(int count, Memory memory, Runnable prepareThread) {
    this.prepareThread = prepareThread;
    threads = new Thread[count - 1];
    for (int i = 0; i < count; i++) {
      scratches.add(new Scratch(i, memory));
    }
    for (int i = 0; i < threads.length; i++) {
      Scratch scratch = scratches.get(i + 1);
      threads[i] =
          Thread.ofPlatform().daemon().name("meanflow-cpu-" + (i + 1)).start(() -> work(scratch));
    }
  }

  /** {@return the number of threads that compute} */
  int count() {
    return threads.length + 1;
  }

  /** Runs {@code task} for every item in [0, items) and waits for all. */
  void run(int items, Task task) {
    Scratch mine = scratches.getFirst();
    if (Thread.currentThread() != caller) {
      prepareThread.run();
      caller = Thread.currentThread();
    }
    if (threads.length == 0 || items < 2 || busy) {
      for (int item = 0; item < items; item++) {
        task.run(item, mine);
      }
      return;
    }
    busy = true;
    nextItem.set(0);
    running.set(threads.length);
    job = new Job(items, task);
    for (Thread thread : threads) {
      LockSupport.unpark(thread);
    }
    loop(items, task, mine);
    while (running.get() > 0) {
      Thread.onSpinWait();
    }
    busy = false;
    Throwable thrown = failure.getAndSet(null);
    switch (thrown) {
      case null -> {}
      case RuntimeException e -> throw e;
      case Error e -> throw e;
      default -> throw new IllegalStateException(thrown);
    }
  }

  private void loop(int items, Task task, Scratch scratch) {
    try {
      for (int item = nextItem.getAndIncrement(); item < items; item = nextItem.getAndIncrement()) {
        task.run(item, scratch);
      }
    } catch (RuntimeException | Error e) {
      failure.compareAndSet(null, e);
      nextItem.set(items);
    }
  }

  private void work(Scratch scratch) {
    prepareThread.run();
    Job done = null;
    while (true) {
      Job next = awaitJob(done);
      if (next == null) {
        return;
      }
      loop(next.items, next.task, scratch);
      done = next;
      running.decrementAndGet();
    }
  }

  private @Nullable Job awaitJob(@Nullable Job done) {
    long start = System.nanoTime();
    while (!closed) {
      Job next = job;
      if (next != done) {
        return next;
      }
      for (int i = 0; i < SPINS_BETWEEN_CLOCKS && job == done; i++) {
        Thread.onSpinWait();
      }
      if (busy) {
        start = System.nanoTime(); // others still compute, the next job is near
      }
      if (System.nanoTime() - start > SPIN_NANOS && job == done && !closed) {
        LockSupport.park(this);
      }
    }
    return null;
  }

  @Override
  public void close() {
    closed = true;
    for (Thread thread : threads) {
      LockSupport.unpark(thread);
    }
    try {
      for (Thread thread : threads) {
        thread.join();
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }
}
