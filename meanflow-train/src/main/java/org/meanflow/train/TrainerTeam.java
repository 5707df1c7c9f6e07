package org.meanflow.train;

import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/**
 * The trainers of a run, one for each of its devices, which do everything at the same time: the
 * first on the caller's thread, each other on one of its own. When one fails, the others do not
 * wait for it.
 */
final class TrainerTeam implements AutoCloseable {
  private final List<Devices.Device> devices;
  private final List<Trainer> trainers = new ArrayList<>();
  private final List<ExecutorService> threads = new ArrayList<>();

  /** Something that a trainer does. */
  @FunctionalInterface
  interface Task<T> {
    T by(Trainer trainer) throws IOException;
  }

  /**
   * A team.
   *
   * @param devices what to compute on
   * @param maker makes the trainer of a device
   */
  TrainerTeam(Devices devices, Function<Devices.Device, Trainer> maker) {
    this.devices = devices.all();
    try {
      for (Devices.Device device : this.devices) {
        trainers.add(maker.apply(device));
      }
    } catch (RuntimeException e) {
      close();
      throw e;
    }
    for (int rank = 1; rank < trainers.size(); rank++) {
      threads.add(
          Executors.newSingleThreadExecutor(
              Thread.ofPlatform().daemon().name("trainer-" + rank).factory()));
    }
  }

  /** The trainer of the first device. */
  Trainer first() {
    return trainers.getFirst();
  }

  /**
   * Lets every trainer do the same, and waits for all of them.
   *
   * @return what the first got
   * @throws IOException what went wrong first, on whichever device
   */
  <T> T all(Task<T> task) throws IOException {
    AtomicReference<@Nullable Throwable> failure = new AtomicReference<>();
    List<Future<T>> others = new ArrayList<>();
    for (int i = 1; i < trainers.size(); i++) {
      int rank = i;
      others.add(threads.get(i - 1).submit(() -> attempt(rank, task, failure)));
    }
    try {
      T result = attempt(0, task, failure);
      for (Future<T> other : others) {
        other.get();
      }
      return result;
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IOException("interrupted while other devices were at work", e);
    } catch (IOException | RuntimeException | Error | ExecutionException e) {
      others.forEach(TrainerTeam::await);
      switch (failure.get()) {
        case IOException first -> throw first;
        case RuntimeException first -> throw first;
        case Error first -> throw first;
        case null, default -> throw new AssertionError(e);
      }
    }
  }

  private <T> T attempt(int rank, Task<T> task, AtomicReference<@Nullable Throwable> failure)
      throws IOException {
    try {
      return task.by(trainers.get(rank));
    } catch (IOException | RuntimeException | Error e) {
      // A bad step is one for all: they saw the same loss and the same gradient.
      if (failure.compareAndSet(null, e) && !(e instanceof BadStepException)) {
        devices.get(rank).reducer().abort();
      }
      throw e;
    }
  }

  private static void await(Future<?> other) {
    try {
      other.get();
    } catch (ExecutionException e) {
      return; // it failed, too, for the same reason or because of it
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  @Override
  public void close() {
    threads.forEach(ExecutorService::shutdown);
    trainers.forEach(Trainer::close);
  }
}
