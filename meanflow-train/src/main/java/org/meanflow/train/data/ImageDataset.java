package org.meanflow.train.data;

import org.jspecify.annotations.Nullable;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;

/** Images of one shape, with or without labels, that can be read in any order. */
public interface ImageDataset {

  /** {@return the number of images, ≥ 1} */
  int size();

  /** {@return the number of classes; 0 if the images have no labels} */
  int classes();

  /** {@return the shape of an image, {@code [channels, height, width]}; a new array} */
  long[] imageShape();

  /**
   * Gathers images.
   *
   * @param indices which images, each in [0, {@link #size}), in any order, repeated at will; at
   *     least one; not changed
   * @param type float32 or float64
   * @return the images and their labels, in the order of {@code indices}
   * @throws IllegalArgumentException if there are no indices or the type is another one
   * @throws IndexOutOfBoundsException if an index is out of range
   */
  Batch batch(int[] indices, DataType type);

  /**
   * Some images of a data set.
   *
   * @param x the images, {@code [batch, channels, height, width]}, values in [−1, 1]
   * @param labels the class of each, in [0, classes); {@code null} if the images have none
   */
  record Batch(INDArray x, int @Nullable [] labels) {}
}
