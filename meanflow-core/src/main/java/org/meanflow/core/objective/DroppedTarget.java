package org.meanflow.core.objective;

/** What the samples whose label was dropped regress to. */
public enum DroppedTarget {

  /** The plain conditional velocity v: the paper and its official code. */
  VELOCITY,

  /** The guided velocity ṽ, as for all other samples. */
  GUIDED
}
