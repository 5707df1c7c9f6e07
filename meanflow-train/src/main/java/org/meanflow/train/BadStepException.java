package org.meanflow.train;

/** A step was refused: its loss or gradient is not finite, or its error is a spike. */
public final class BadStepException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  private final boolean mayRollBack;

  /**
   * Creates the exception.
   *
   * @param step the step that was refused, counted from 0
   * @param problem what is wrong with it, and where
   * @param mayRollBack whether the guard asks to go back to the last checkpoint
   */
  BadStepException(long step, String problem, boolean mayRollBack) {
    super("step %d: %s; the step was not applied".formatted(step, problem));
    this.mayRollBack = mayRollBack;
  }

  /** The same with where to go on from. */
  BadStepException(BadStepException cause, String lastGoodState) {
    super(cause.getMessage() + "; " + lastGoodState, cause);
    this.mayRollBack = false;
  }

  /** {@return whether the guard asks to go back to the last checkpoint, rather than to stop} */
  public boolean mayRollBack() {
    return mayRollBack;
  }
}
