package org.meanflow.train;

import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.engine.cuda.NcclGroup;

/**
 * One of several GPUs of a machine, joined by NCCL: its trainer runs on a thread of its own.
 *
 * @param group the engines of all trainers
 * @param rank place of this trainer's engine among them
 */
public record NcclReducer(NcclGroup group, int rank) implements GradientReducer {

  /** Checks the rank. */
  public NcclReducer {
    if (rank < 0 || rank >= group.size()) {
      throw new IllegalArgumentException(
          "rank must be in [0, %d), got %d".formatted(group.size(), rank));
    }
  }

  @Override
  public int size() {
    return group.size();
  }

  @Override
  public void average(double[] values) {
    group.average(rank, values);
  }

  @Override
  public void average(Tensor gradients) {
    group.average(rank, gradients);
  }

  @Override
  public void abort() {
    group.abort();
  }
}
