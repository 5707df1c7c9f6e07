package org.meanflow.core.time;

import org.meanflow.core.random.RandomStream;

/** The uniform law on [0, 1). */
public record Uniform() implements TimeLaw {

  @Override
  public double draw(RandomStream random) {
    return random.nextUniform();
  }
}
