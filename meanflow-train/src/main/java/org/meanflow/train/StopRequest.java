package org.meanflow.train;

import java.time.Duration;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * Notices that the process is asked to end (Ctrl-C, SIGTERM) and holds the JVM until the work in
 * hand is saved.
 */
final class StopRequest implements AutoCloseable {
  private static final Duration PATIENCE = Duration.ofMinutes(2);

  private final CountDownLatch finished = new CountDownLatch(1);
  private final Thread hook = new Thread(this::request, "save-before-exit");
  private volatile boolean requested;

  /** Starts to listen. */
  StopRequest() {
    Runtime.getRuntime().addShutdownHook(hook);
  }

  boolean requested() {
    return requested;
  }

  private void request() {
    requested = true;
    try {
      boolean saved = finished.await(PATIENCE.toSeconds(), TimeUnit.SECONDS);
      if (!saved) {
        System.err.println("meanflow: gave up waiting for the checkpoint after " + PATIENCE);
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  @Override
  public void close() {
    finished.countDown();
    try {
      Runtime.getRuntime().removeShutdownHook(hook);
    } catch (IllegalStateException e) {
      // The JVM is ending, which is what the hook was for.
    }
  }
}
