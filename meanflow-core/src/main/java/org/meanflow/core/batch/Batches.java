package org.meanflow.core.batch;

import java.lang.ref.Reference;
import java.nio.DoubleBuffer;
import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.stream.IntStream;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.concurrency.AffinityManager;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.api.shape.Shape;
import org.nd4j.linalg.factory.Nd4j;

/**
 * Loops over the samples of a batch, in one pass and in float64 whatever the type of the arrays. A
 * chain of array operations would pass over memory once for each and leave an array behind.
 *
 * <p>A row's loop is turned into vector instructions if the numbers of its sample are in local
 * variables: elements of other arrays might be changed by each store.
 */
public final class Batches {
  /** Fewer elements than this are computed sooner than they are shared out. */
  private static final long WORTH_SHARING = 1 << 15;

  private Batches() {}

  /** What is computed for a sample. */
  @FunctionalInterface
  public interface Row {

    /**
     * Computes one sample; called for several at the same time.
     *
     * @param sample its index
     * @param x its elements of the first batch, to be replaced by those of the result
     * @param y its elements of the second batch
     */
    void compute(int sample, double[] x, double[] y);
  }

  /**
   * A batch made of two, sample by sample.
   *
   * @param x shape {@code [batch, ...]}, float32 or float64; not changed
   * @param y shape {@code [m, ...]} for the first m samples, m ≤ batch, of the type of {@code x};
   *     not changed
   * @param row what is computed for the first m samples; the others are those of {@code x}
   * @return a new c-ordered array of the shape and data type of {@code x}, each element rounded to
   *     it once
   * @throws IllegalArgumentException if {@code y} is not of such a shape and type
   */
  public static INDArray map(INDArray x, INDArray y, Row row) {
    int batch = (int) x.size(0);
    int count = (int) y.size(0);
    long[] covered = x.shape().clone();
    covered[0] = Math.min(count, batch);
    if (y.dataType() != x.dataType() || !Arrays.equals(y.shape(), covered)) {
      throw new IllegalArgumentException(
          "y must have the type of x and the shape of some of its samples, %s%s, got %s%s"
              .formatted(
                  x.dataType(),
                  Arrays.toString(covered),
                  y.dataType(),
                  Arrays.toString(y.shape())));
    }
    INDArray result = Nd4j.createUninitialized(x.dataType(), x.shape().clone(), 'c');
    if (batch == 0 || x.length() == 0) {
      return result;
    }
    INDArray first = plain(x);
    INDArray second = plain(y);
    try {
      int width = Math.toIntExact(x.length() / batch);
      int parts =
          x.length() < WORTH_SHARING
              ? 1
              : Math.min(batch, 4 * Runtime.getRuntime().availableProcessors());
      IntStream.range(0, parts)
          .parallel()
          .forEach(
              part -> {
                Elements from = Elements.of(first, width);
                Elements others = count == 0 ? from : Elements.of(second, width);
                Elements to = Elements.of(result, width);
                double[] xs = new double[width];
                double[] ys = new double[width];
                int end = (int) ((part + 1L) * batch / parts);
                for (int i = (int) ((long) part * batch / parts); i < end; i++) {
                  from.get(i, xs);
                  if (i < count) {
                    others.get(i, ys);
                    row.compute(i, xs, ys);
                  }
                  to.put(i, xs);
                }
              });
    } finally {
      // Buffers do not keep the memory of their arrays.
      Reference.reachabilityFence(first);
      Reference.reachabilityFence(second);
      Reference.reachabilityFence(result);
    }
    return written(result);
  }

  /**
   * A float32 array. {@code Nd4j.createFromArray} copies number by number.
   *
   * @param values elements in row-major order
   * @param shape extents, whose product is the number of values
   * @return a new c-ordered array
   */
  public static INDArray of(float[] values, long... shape) {
    INDArray array = Nd4j.createUninitialized(DataType.FLOAT, shape.clone(), 'c');
    if (values.length != array.length()) {
      throw new IllegalArgumentException(
          "shape %s must have %d elements, got %d"
              .formatted(Arrays.toString(shape), array.length(), values.length));
    }
    array.data().asNioFloat().put(values);
    return written(array);
  }

  /** Tells an ND4J backend with memory of its own that the host has the newer content. */
  private static INDArray written(INDArray array) {
    Nd4j.getAffinityManager().tagLocation(array, AffinityManager.Location.HOST);
    return array;
  }

  /** The array itself if its elements follow each other in row-major order, else such a copy. */
  private static INDArray plain(INDArray array) {
    return array.ordering() == 'c' && Shape.hasDefaultStridesForShape(array)
        ? array
        : array.dup('c');
  }

  /** The memory of an array, sample by sample, for one thread. */
  private sealed interface Elements {
    static Elements of(INDArray array, int width) {
      return array.dataType() == DataType.DOUBLE
          ? new Doubles(array.data().asNioDouble().slice())
          : new Floats(array.data().asNioFloat().slice(), new float[width]);
    }

    void get(int sample, double[] row);

    void put(int sample, double[] row);
  }

  private record Doubles(DoubleBuffer memory) implements Elements {
    @Override
    public void get(int sample, double[] row) {
      memory.get(sample * row.length, row);
    }

    @Override
    public void put(int sample, double[] row) {
      memory.put(sample * row.length, row);
    }
  }

  private record Floats(FloatBuffer memory, float[] narrow) implements Elements {
    @Override
    public void get(int sample, double[] row) {
      memory.get(sample * row.length, narrow);
      for (int i = 0; i < row.length; i++) {
        row[i] = narrow[i];
      }
    }

    @Override
    public void put(int sample, double[] row) {
      for (int i = 0; i < row.length; i++) {
        narrow[i] = (float) row[i];
      }
      memory.put(sample * row.length, narrow);
    }
  }
}
