package org.meanflow.sample;

/** Told how far a long piece of work has come, for instance to draw a bar. */
@FunctionalInterface
public interface ProgressListener {

  /** Listens to nothing. */
  ProgressListener NONE = (done, total) -> {};

  /**
   * Called after each batch.
   *
   * @param done samples drawn so far
   * @param total samples to draw
   */
  void progress(int done, int total);
}
