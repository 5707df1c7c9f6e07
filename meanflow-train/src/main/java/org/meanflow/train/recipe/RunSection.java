package org.meanflow.train.recipe;

import org.jspecify.annotations.Nullable;
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
 * @param accumulate parts in which a batch is computed, one after the other, to save memory; ≥ 1,
 *     divides {@code batch}
 * @param keepEvery checkpoints whose step is a multiple of it are kept, too; ≥ 0, 0 for none
 * @param onSaveFailure what happens when a checkpoint or anything else cannot be written
 * @param init weights to start from, as {@code sample --checkpoint} takes them; {@code null} to
 *     start from random ones
 * @param initPartial whether {@code init} may lack parameters of the model or have others
 */
public record RunSection(
    int batch,
    long steps,
    long seed,
    long previewEvery,
    long checkpointEvery,
    int keepCheckpoints,
    Precision precision,
    @Default("1") int accumulate,
    @Default("0") long keepEvery,
    @Default("stop") OnSaveFailure onSaveFailure,
    @Nullable String init,
    @Default("false") boolean initPartial) {

  /** What a failure to write leads to. Earlier checkpoints are intact either way. */
  public enum OnSaveFailure {
    /** The run ends with an error. */
    STOP,
    /** It is logged, and the training goes on; at the end of the run it is an error. */
    CONTINUE
  }

  /** Refuses values outside the ranges of the parameters. */
  public RunSection {
    requireAtLeast(1, "batch", batch);
    requireAtLeast(1, "steps", steps);
    requireAtLeast(0, "previewEvery", previewEvery);
    requireAtLeast(0, "checkpointEvery", checkpointEvery);
    requireAtLeast(1, "keepCheckpoints", keepCheckpoints);
    requireAtLeast(1, "accumulate", accumulate);
    requireAtLeast(0, "keepEvery", keepEvery);
    if (batch % accumulate != 0) {
      throw new IllegalArgumentException(
          "batch must be a multiple of accumulate (%d), got %d".formatted(accumulate, batch));
    }
  }

  private static void requireAtLeast(int least, String field, long value) {
    if (value < least) {
      throw new IllegalArgumentException(field + " must be >= " + least + ", got " + value);
    }
  }
}
