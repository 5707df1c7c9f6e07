package org.meanflow.nn.engine;

/**
 * What a forward kernel remembers for its tangent and its backward kernel; only the engine that
 * made it knows what that is. Closing it gives the memory back; closing it again does nothing.
 */
public interface Saved extends AutoCloseable {

  /** Nothing remembered. */
  Saved NOTHING = () -> {};

  @Override
  void close();
}
