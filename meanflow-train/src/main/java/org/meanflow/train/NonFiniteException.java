package org.meanflow.train;

/** The loss or a gradient is NaN or infinite; the step was not applied. */
public final class NonFiniteException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  /**
   * Creates the exception.
   *
   * @param step the step that failed, counted from 0
   * @param what what is not finite
   * @param where the layer or parameter in which it arose first
   */
  public NonFiniteException(long step, String what, String where) {
    super(
        "step %d: %s is not finite, first in %s; the step was not applied. Lower optimizer.rate, set "
                .formatted(step, what, where)
            + "optimizer.clipNorm or look at the data of this step");
  }
}
