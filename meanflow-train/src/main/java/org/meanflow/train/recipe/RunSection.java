package org.meanflow.train.recipe;

import org.meanflow.nn.engine.Precision;

/**
 * The section {@code run}: how long and how the training runs.
 *
 * @param batch samples of a step, ≥ 1
 * @param steps training steps, ≥ 1
 * @param seed seed of all randomness
 * @param previewEvery steps between two grids of samples, ≥ 0; 0 for none
 * @param checkpointEvery steps between two checkpoints, ≥ 0; 0 for one at the end alone
 * @param keepCheckpoints how many of the latest checkpoints are kept, ≥ 1
 * @param precision arithmetic
 */
public record RunSection(
    int batch,
    long steps,
    long seed,
    long previewEvery,
    long checkpointEvery,
    int keepCheckpoints,
    Precision precision) {

  /** Refuses values outside the ranges of the parameters. */
  public RunSection {
    requireAtLeast(1, "batch", batch);
    requireAtLeast(1, "steps", steps);
    requireAtLeast(0, "previewEvery", previewEvery);
    requireAtLeast(0, "checkpointEvery", checkpointEvery);
    requireAtLeast(1, "keepCheckpoints", keepCheckpoints);
  }

  private static void requireAtLeast(int least, String field, long value) {
    if (value < least) {
      throw new IllegalArgumentException(field + " must be >= " + least + ", got " + value);
    }
  }
}
