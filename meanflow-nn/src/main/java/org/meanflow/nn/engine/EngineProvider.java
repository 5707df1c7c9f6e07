package org.meanflow.nn.engine;

import org.jspecify.annotations.Nullable;

/** Makes engines of one kind; found by {@link java.util.ServiceLoader}. */
public interface EngineProvider {

  /** {@return the name of the engine, as in {@code --engine nd4j}} */
  String name();

  /**
   * The engine with the highest rank that can run is the default.
   *
   * @return any number; 0 is the reference engine
   */
  int rank();

  /** {@return why the engine cannot run here; {@code null} if it can} */
  @Nullable String unavailableBecause();

  /**
   * Whether the engine knows an arithmetic.
   *
   * @param precision an arithmetic
   * @return whether {@link #create} accepts it
   */
  boolean supports(Precision precision);

  /** {@return what the engine runs on: libraries, versions, kernel sets; for {@code info}} */
  String description();

  /**
   * A new engine.
   *
   * @param precision its arithmetic, a {@linkplain #supports supported} one
   * @param threads CPU threads it may use; 0 for as many as there are processors
   * @return the engine, the caller's to close
   * @throws IllegalArgumentException if it does not support {@code precision}
   */
  Engine create(Precision precision, int threads);
}
