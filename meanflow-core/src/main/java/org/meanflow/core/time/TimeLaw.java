package org.meanflow.core.time;

import org.meanflow.core.random.RandomStream;

/** The law of one time in [0, 1], from which the pairs (r, t) of a training step are made. */
public sealed interface TimeLaw permits Uniform, LogitNormal {

  /**
   * Draws one time.
   *
   * @param random where the randomness comes from
   * @return a time in [0, 1]
   */
  double draw(RandomStream random);
}
