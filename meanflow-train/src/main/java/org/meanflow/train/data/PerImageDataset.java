package org.meanflow.train.data;

import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.meanflow.core.batch.Batches;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/** A data set that reads its images one by one: what a new format has to extend. */
public abstract class PerImageDataset implements ImageDataset {
  private final int size;
  private final int classes;
  private final long[] shape;

  /**
   * One look at an image in training.
   *
   * @param seed seed of the run
   * @param number epoch · size + index: no two looks of a run have the same
   */
  protected record Visit(long seed, long number) {

    /**
     * The random numbers of this look.
     *
     * @param purpose what they are for
     * @return a new stream, from its beginning
     */
    public RandomStream random(Purpose purpose) {
      return new RandomStream(seed, number, purpose);
    }
  }

  /**
   * Creates a data set.
   *
   * @param size number of images, ≥ 1
   * @param classes number of classes; 0 for images without labels
   * @param shape shape of an image, {@code [channels, height, width]}
   */
  protected PerImageDataset(int size, int classes, long... shape) {
    this.size = size;
    this.classes = classes;
    this.shape = shape.clone();
  }

  /**
   * Reads an image. Called by several threads at once.
   *
   * @param index which, in [0, {@link #size})
   * @param visit where random numbers come from; {@code null} for the image without anything random
   * @param image where to put its values, {@code [channels, height, width]}, row-major
   * @throws DataException if it cannot be read
   */
  protected abstract void read(int index, @Nullable Visit visit, double[] image)
      throws DataException;

  /**
   * The class of an image. Asked for only if there are classes.
   *
   * @param index which, in [0, {@link #size})
   * @return its class, in [0, {@link #classes})
   */
  protected abstract int label(int index);

  @Override
  public final int size() {
    return size;
  }

  @Override
  public final int classes() {
    return classes;
  }

  @Override
  public final long[] imageShape() {
    return shape.clone();
  }

  @Override
  public final Batch batch(int[] indices, DataType type) throws DataException {
    return gather(indices, new @Nullable Visit[indices.length], type);
  }

  @Override
  public final Batch batch(DataOrder.Samples samples, long seed, DataType type)
      throws DataException {
    @Nullable Visit[] visits = new @Nullable Visit[samples.indices().length];
    for (int i = 0; i < visits.length; i++) {
      long number =
          Math.addExact(Math.multiplyExact(samples.epochs()[i], size), samples.indices()[i]);
      visits[i] = new Visit(seed, number);
    }
    return gather(samples.indices(), visits, type);
  }

  private Batch gather(int[] indices, @Nullable Visit[] visits, DataType type)
      throws DataException {
    if (indices.length == 0) {
      throw new IllegalArgumentException("indices must not be empty");
    }
    if (type != DataType.FLOAT && type != DataType.DOUBLE) {
      throw new IllegalArgumentException("type must be FLOAT or DOUBLE, got " + type);
    }
    for (int index : indices) {
      Objects.checkIndex(index, size);
    }
    double[] image = new double[Math.toIntExact(shape[0] * shape[1] * shape[2])];
    int values = Math.multiplyExact(indices.length, image.length);
    float[] floats = new float[type == DataType.FLOAT ? values : 0];
    double[] doubles = new double[type == DataType.DOUBLE ? values : 0];
    for (int i = 0; i < indices.length; i++) {
      read(indices[i], visits[i], image);
      int first = i * image.length;
      if (type == DataType.DOUBLE) {
        System.arraycopy(image, 0, doubles, first, image.length);
      } else {
        for (int j = 0; j < image.length; j++) {
          floats[first + j] = (float) image[j];
        }
      }
    }
    INDArray x =
        type == DataType.FLOAT ? Batches.of(floats, values) : Nd4j.createFromArray(doubles);
    return new Batch(x.reshape('c', indices.length, shape[0], shape[1], shape[2]), labels(indices));
  }

  private int @Nullable [] labels(int[] indices) {
    if (classes == 0) {
      return null;
    }
    int[] labels = new int[indices.length];
    for (int i = 0; i < labels.length; i++) {
      labels[i] = label(indices[i]);
    }
    return labels;
  }

  /** The value of an unsigned byte: 0 is −1, 255 is 1. */
  static double value(byte pixel) {
    return (pixel & 0xff) / 127.5 - 1;
  }
}
