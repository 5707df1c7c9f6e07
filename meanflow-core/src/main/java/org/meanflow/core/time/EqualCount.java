package org.meanflow.core.time;

/** How many samples of a batch have r = t. */
public enum EqualCount {

  /**
   * Exactly ⌊fractionEqual·batch⌋, the same in all steps: the shapes of a step then never change.
   */
  EXACT,

  /** Each sample by itself with probability fractionEqual. */
  BERNOULLI
}
