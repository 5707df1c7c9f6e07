package org.meanflow.train.data;

import org.jspecify.annotations.Nullable;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;

/**
 * Which samples each training step sees. Every epoch is a random permutation of the data set, and
 * batches run on across the end of an epoch: no sample is left out or seen twice in an epoch. What
 * a step sees is a function of (seed, size, batch, step) alone.
 */
public final class DataOrder {
  private final long seed;
  private final int size;
  private final int batch;

  /** The epoch asked for last; steps are mostly asked for in turn. */
  private volatile @Nullable Epoch current;

  /** The permutation of an epoch. */
  private record Epoch(long number, int[] order) {}

  /**
   * The samples of a step.
   *
   * @param indices the index of each, in [0, size)
   * @param epochs the epoch in which each is seen, counted from 0
   */
  public record Samples(int[] indices, long[] epochs) {}

  /**
   * Creates the order.
   *
   * @param seed seed of the run, any value
   * @param size number of samples, ≥ 1
   * @param batch samples of a step, ≥ 1; may exceed {@code size}
   */
  public DataOrder(long seed, int size, int batch) {
    if (size < 1) {
      throw new IllegalArgumentException("size must be >= 1, got " + size);
    }
    if (batch < 1) {
      throw new IllegalArgumentException("batch must be >= 1, got " + batch);
    }
    this.seed = seed;
    this.size = size;
    this.batch = batch;
  }

  /**
   * The samples of a step.
   *
   * @param step training step, ≥ 0
   * @return index and epoch of each, in new arrays
   */
  public Samples samples(long step) {
    long first = first(step);
    Samples samples = new Samples(new int[batch], new long[batch]);
    for (int i = 0; i < batch; i++) {
      long position = first + i;
      samples.epochs[i] = position / size;
      samples.indices[i] = epochOf(position / size).order[(int) (position % size)];
    }
    return samples;
  }

  /**
   * The samples of a step without their epochs.
   *
   * @param step training step, ≥ 0
   * @return the index of each, in [0, size); a new array
   */
  public int[] indices(long step) {
    return samples(step).indices;
  }

  /**
   * The epoch in which a step begins.
   *
   * @param step training step, ≥ 0
   * @return the epoch, counted from 0
   */
  public long epoch(long step) {
    return first(step) / size;
  }

  private long first(long step) {
    if (step < 0) {
      throw new IllegalArgumentException("step must be >= 0, got " + step);
    }
    return Math.multiplyExact(step, (long) batch);
  }

  private Epoch epochOf(long number) {
    Epoch epoch = current;
    if (epoch == null || epoch.number != number) {
      RandomStream random = new RandomStream(seed, number, Purpose.DATA_ORDER);
      epoch = new Epoch(number, random.permutation(size));
      current = epoch;
    }
    return epoch;
  }
}
