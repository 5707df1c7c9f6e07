package org.meanflow.nn.engine;

/** How precisely the elements of a tensor need to be kept. */
public enum Storage {
  /** In the engine's number type. */
  FULL,
  /**
   * As factors of matrix products are: bfloat16 on an engine of {@link Precision#BF16}, else as
   * {@link #FULL}. For results whose only use is a product, or that come from one.
   */
  COMPACT
}
