package org.meanflow.core.objective;

/** How the squared error of a sample is reduced over its elements. */
public enum Reduction {

  /** ‖Δ‖² = Σ Δ²: the paper and its official code. */
  SUM,

  /** ‖Δ‖²/D with D elements in a sample: independent of the size of an image. */
  MEAN
}
