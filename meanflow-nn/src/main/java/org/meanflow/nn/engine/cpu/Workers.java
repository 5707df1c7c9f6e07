package org.meanflow.nn.engine.cpu;

import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLongArray;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import org.jspecify.annotations.Nullable;

/**
 * The one pool of threads that all kernels run on. The calling thread is worker 0.
 *
 * <p>Each worker begins with a range of the items of its own, the same share in every loop: rows
 * that one kernel wrote are in the cache of the core that reads them in the next. Who is through
 * takes items from the ends of the others' ranges, so who computes what is open, and no result may
 * depend on it.
 *
 * <p>A worker that finds no work spins for some microseconds, about the time between two kernels of
 * a step, and then sleeps, so that it takes nothing from others. Nobody waits for one that wakes up
 * too late to find an item.
 */
@SuppressWarnings("ReferenceEquality") // of threads and jobs
final class Workers implements AutoCloseable {
  /** Waking a sleeping thread takes about 50 µs; most pauses between kernels are shorter. */
  private static final long SPIN_NANOS = 50_000;

  private static final int SPINS_BETWEEN_CLOCKS = 64;

  private final Worker[] others;
  private final Scratch callersScratch;
  private final Runnable prepareThread;
  private volatile @Nullable Job job;
  private volatile boolean closed;
  private @Nullable Thread caller;
  private boolean busy;

  /** A loop over items. */
  @FunctionalInterface
  interface Task {
    void run(int item, Scratch scratch);
  }

  /** One loop and what is left of it. */
  private static final class Job {
    /** Ranges are so many numbers apart: in cache lines of their own. */
    private static final int STEP = 16;

    private static final int BITS = 32;

    private final Task task;
    private final int workers;

    /** The items that nobody took yet: the first in the high bits, the one after the last. */
    private final AtomicLongArray ranges;

    private final AtomicInteger unfinished;
    private final AtomicReference<@Nullable Throwable> failure = new AtomicReference<>();

    Job(int items, Task task, int workers) {
      this.task = task;
      this.workers = workers;
      ranges = new AtomicLongArray(workers * STEP);
      unfinished = new AtomicInteger(items);
      for (int w = 0; w < workers; w++) {
        long first = (long) items * w / workers;
        long end = (long) items * (w + 1) / workers;
        ranges.setPlain(w * STEP, first << BITS | end);
      }
    }

    /** Runs items until none is left to take. */
    void run(Scratch scratch) {
      int finished = 0;
      for (int i = 0; i < workers; i++) {
        int owner = (scratch.worker + i) % workers;
        for (int item = take(owner, i == 0); item >= 0; item = take(owner, i == 0)) {
          run(item, scratch);
          finished++;
        }
      }
      unfinished.addAndGet(-finished);
    }

    /** Once an item has failed, the others are left out. */
    private void run(int item, Scratch scratch) {
      try {
        if (failure.get() == null) {
          task.run(item, scratch);
        }
      } catch (RuntimeException | Error e) {
        failure.compareAndSet(null, e);
      }
    }

    /** The first or the last item of a worker's range; −1 if it is empty. */
    private int take(int owner, boolean first) {
      long range = ranges.get(owner * STEP);
      while ((int) (range >>> BITS) < (int) range) {
        long rest = first ? range + (1L << BITS) : range - 1;
        long found = ranges.compareAndExchange(owner * STEP, range, rest);
        if (found == range) {
          return first ? (int) (range >>> BITS) : (int) rest;
        }
        range = found;
      }
      return -1;
    }

    boolean isFinished() {
      return unfinished.get() == 0;
    }

    void throwFailure() {
      switch (failure.get()) {
        case null -> {}
        case RuntimeException e -> throw e;
        case Error e -> throw e;
        case Throwable e -> throw new IllegalStateException(e);
      }
    }
  }

  /**
   * Starts the threads.
   *
   * @param count threads that compute, the caller's included, ≥ 1
   * @param memory where their scratch memory comes from
   * @param prepareThread run once on every thread that computes
   */
  Workers(int count, Memory memory, Runnable prepareThread) {
    this.prepareThread = prepareThread;
    callersScratch = new Scratch(0, memory);
    others = new Worker[count - 1];
    for (int i = 0; i < others.length; i++) {
      others[i] = new Worker(new Scratch(i + 1, memory));
    }
    for (Worker worker : others) {
      worker.thread.start();
    }
  }

  /** {@return the number of threads that compute} */
  int count() {
    return others.length + 1;
  }

  /** As {@link org.meanflow.nn.engine.Engine#productMilliseconds}. */
  double productMilliseconds() {
    long nanos = callersScratch.productNanos();
    for (Worker worker : others) {
      nanos += worker.scratch.productNanos();
    }
    return nanos * 1e-6 / count();
  }

  /**
   * Runs {@code task} for every item in [0, items) and waits for all. Neighbouring items should be
   * neighbouring rows. A task that calls this again runs that loop alone.
   */
  void run(int items, Task task) {
    if (Thread.currentThread() != caller) {
      prepareThread.run();
      caller = Thread.currentThread();
    }
    if (others.length == 0 || items < 2 || busy) {
      for (int item = 0; item < items; item++) {
        task.run(item, callersScratch);
      }
      return;
    }
    busy = true;
    Job mine = new Job(items, task, count());
    job = mine;
    for (Worker worker : others) {
      worker.wake();
    }
    mine.run(callersScratch);
    while (!mine.isFinished()) {
      Thread.onSpinWait();
    }
    busy = false;
    mine.throwFailure();
  }

  /** A thread that waits for jobs. */
  private final class Worker implements Runnable {
    private final Scratch scratch;
    private final Thread thread;
    private volatile boolean asleep;

    Worker(Scratch scratch) {
      this.scratch = scratch;
      thread = Thread.ofPlatform().daemon().name("meanflow-cpu-" + scratch.worker).unstarted(this);
    }

    @Override
    public void run() {
      prepareThread.run();
      for (Job next = awaitJob(null); next != null; next = awaitJob(next)) {
        next.run(scratch);
      }
    }

    private @Nullable Job awaitJob(@Nullable Job done) {
      long start = System.nanoTime();
      while (!closed) {
        for (int i = 0; i < SPINS_BETWEEN_CLOCKS && job == done; i++) {
          Thread.onSpinWait();
        }
        Job next = job;
        if (next != done) {
          return next;
        }
        if (done != null && !done.isFinished()) {
          start = System.nanoTime(); // the others still compute, the next job is near
        } else if (System.nanoTime() - start > SPIN_NANOS) {
          asleep = true;
          if (job == done && !closed) { // asked again: now wake() sees that it is needed
            LockSupport.park(Workers.this);
          }
          asleep = false;
        }
      }
      return null;
    }

    /** To be called when there is a new job: a call of the system only if it has to be. */
    void wake() {
      if (asleep) {
        asleep = false;
        LockSupport.unpark(thread);
      }
    }
  }

  @Override
  public void close() {
    closed = true;
    for (Worker worker : others) {
      LockSupport.unpark(worker.thread);
    }
    try {
      for (Worker worker : others) {
        worker.thread.join();
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }
}
