package org.meanflow.core.time;

/** How a draw a from the law of t and a draw b from the law of r become a pair r ≤ t. */
public enum Pairing {

  /**
   * t = max(a, b), r = min(a, b); in the samples chosen to be equal, r = t = max(a, b). The pairing
   * of the paper (arXiv 2505.13447, section 4.3).
   */
  MAX_MIN,

  /**
   * t = a, r = min(a, b); in the samples chosen to be equal, r = t = a. Called "v1" in py-meanflow.
   * The law of t stays exactly that of a.
   */
  INDEPENDENT_THEN_MIN
}
