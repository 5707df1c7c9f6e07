package org.meanflow.train.data;

import org.jspecify.annotations.Nullable;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * Images of one shape, with or without labels, that can be read in any order and by several threads
 * at once.
 */
public interface ImageDataset extends AutoCloseable {

  /** {@return the number of images, ≥ 1} */
  int size();

  /** {@return the number of classes; 0 if the images have no labels} */
  int classes();

  /** {@return the shape of an image, {@code [channels, height, width]}; a new array} */
  long[] imageShape();

  /**
   * Gathers images without anything random: not augmented, latents at the mean of their posterior.
   *
   * @param indices which images, each in [0, {@link #size}), in any order, repeated at will; at
   *     least one; not changed
   * @param type float32 or float64
   * @return the images and their labels, in the order of {@code indices}
   * @throws IllegalArgumentException if there are no indices or the type is another one
   * @throws IndexOutOfBoundsException if an index is out of range
   * @throws DataException if an image cannot be read
   */
  Batch batch(int[] indices, DataType type) throws DataException;

  /**
   * Gathers images as training sees them. Augmentation and draws from a posterior are a function of
   * (seed, epoch, index) for each image, whatever else is in the batch.
   *
   * @param samples which images, and in which epoch each is seen
   * @param seed seed of the run
   * @param type float32 or float64
   * @return the images and their labels, in the order of {@code samples}
   * @throws IllegalArgumentException if the type is another one
   * @throws IndexOutOfBoundsException if an index is out of range
   * @throws DataException if an image cannot be read
   */
  default Batch batch(DataOrder.Samples samples, long seed, DataType type) throws DataException {
    return batch(samples.indices(), type); // nothing random
  }

  /** Releases what the data set holds. Nothing may be read any more. */
  @Override
  default void close() {}

  /**
   * Some images of a data set.
   *
   * @param x the images, {@code [batch, channels, height, width]}; values in [−1, 1] but for
   *     latents
   * @param labels the class of each, in [0, classes); {@code null} if the images have none
   */
  record Batch(INDArray x, int @Nullable [] labels) {}
}
