package org.meanflow.train;

import org.meanflow.nn.engine.Tensor;

/**
 * Joins the trainers of a data-parallel run, one on each device. All take the same steps on parts
 * of each batch of their own, and end each with the same parameters.
 */
public interface GradientReducer {

  /** A single device. */
  GradientReducer NONE =
      new GradientReducer() {
        @Override
        public int rank() {
          return 0;
        }

        @Override
        public int size() {
          return 1;
        }

        @Override
        public void average(double[] values) {}

        @Override
        public void average(Tensor gradients) {}
      };

  /** {@return the index of this device, in [0, size)} */
  int rank();

  /** {@return how many devices there are, ≥ 1} */
  int size();

  /**
   * Replaces numbers by their mean over all devices; waits for all of them. A NaN or infinity on
   * one device comes out on all.
   *
   * @param values as many on each device; changed, the same on all devices afterwards
   */
  void average(double[] values);

  /**
   * Replaces gradients by their mean over all devices; waits for all of them.
   *
   * @param gradients of one layout on all devices; changed, the same on all devices afterwards, bit
   *     for bit
   */
  void average(Tensor gradients);

  /**
   * Lets no device wait any longer, because this one has failed: their averages, those under way
   * and all later ones, fail, too. Any thread may call it.
   */
  default void abort() {}
}
