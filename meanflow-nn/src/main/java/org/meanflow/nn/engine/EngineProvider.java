package org.meanflow.nn.engine;

import org.jspecify.annotations.Nullable;

/** Makes engines of one kind; found by {@link java.util.ServiceLoader}. */
public interface EngineProvider {

  /** The name of the engine. */
  String name();

  /** The engine with the highest rank that can run is the default. */
  int rank();

  /** Why the engine cannot run here; {@code null} if it can. */
  @Nullable String unavailableBecause();

  /** What the engine runs on: libraries, versions, kernel sets; for {@code info}. */
  String description();

  /**
   * A new engine.
   *
   * @throws IllegalArgumentException if it does not support {@code precision}
   */
  Engine create(Precision precision);
}
