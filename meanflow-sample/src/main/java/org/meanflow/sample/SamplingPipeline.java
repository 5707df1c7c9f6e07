package org.meanflow.sample;

import java.util.Arrays;
import java.util.Objects;
import java.util.stream.IntStream;
import java.util.stream.LongStream;
import org.jspecify.annotations.Nullable;
import org.meanflow.core.batch.Batches;
import org.meanflow.core.field.AverageVelocity;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;
import org.nd4j.linalg.indexing.INDArrayIndex;
import org.nd4j.linalg.indexing.NDArrayIndex;

/**
 * Draws any number of samples in batches. The noise of sample i is a function of (seed, i) alone:
 * neither the batch size nor the number of samples changes it.
 */
public final class SamplingPipeline {
  private final AverageVelocity field;
  private final long[] sampleShape;
  private final int sampleSize;
  private final Sampler sampler;
  private final int batchSize;
  private final DataType type;

  /**
   * A pipeline for samples of one shape.
   *
   * @param field the average velocity u(z, r, t | c)
   * @param sampleShape shape of a sample, {@code [channels, height, width]}, each ≥ 1
   * @param sampler how noise becomes data
   * @param batchSize samples in a batch, ≥ 1
   * @param type FLOAT or DOUBLE, as the field computes
   */
  public SamplingPipeline(
      AverageVelocity field, long[] sampleShape, Sampler sampler, int batchSize, DataType type) {
    if (sampleShape.length != 3 || Arrays.stream(sampleShape).anyMatch(size -> size < 1)) {
      throw new IllegalArgumentException(
          "sampleShape must be [channels, height, width], each >= 1, got "
              + Arrays.toString(sampleShape));
    }
    if (batchSize < 1) {
      throw new IllegalArgumentException("batchSize must be >= 1, got " + batchSize);
    }
    if (type != DataType.FLOAT && type != DataType.DOUBLE) {
      throw new IllegalArgumentException("type must be FLOAT or DOUBLE, got " + type);
    }
    this.field = field;
    this.sampleShape = sampleShape.clone();
    this.sampleSize = Math.toIntExact(Arrays.stream(sampleShape).reduce(1, Math::multiplyExact));
    this.sampler = sampler;
    this.batchSize = batchSize;
    this.type = type;
  }

  /**
   * Draws samples.
   *
   * @param count how many, ≥ 1
   * @param labels classes, cycled over the samples; {@code null} to draw without a class
   * @param seed seed of the noise, any value
   * @param progress told after each batch
   * @return the samples, shape {@code [count, channels, height, width]}, not clipped
   * @throws IllegalArgumentException if {@code count} or {@code labels} is out of range
   * @throws InterruptedException if the thread is interrupted, noticed before each batch
   */
  public INDArray generate(int count, int @Nullable [] labels, long seed, ProgressListener progress)
      throws InterruptedException {
    if (count < 1) {
      throw new IllegalArgumentException("count must be >= 1, got " + count);
    }
    int[] classes = labels == null ? null : cycle(labels, count);
    INDArray samples = null;
    int done = 0;
    while (done < count) {
      if (Thread.interrupted()) {
        throw new InterruptedException("sampling was interrupted at " + done + " of " + count);
      }
      int to = done + Math.min(batchSize, count - done);
      int[] batchClasses = classes == null ? null : Arrays.copyOfRange(classes, done, to);
      INDArray batch = batch(noise(seed, done, to), batchClasses);
      if (to - done == count) {
        samples = batch;
      } else {
        if (samples == null) {
          samples = Nd4j.createUninitialized(type, shape(count), 'c');
        }
        samples.get(rows(done, to)).assign(batch);
      }
      done = to;
      progress.progress(done, count);
    }
    return Objects.requireNonNull(samples);
  }

  /** Gives the noise back at once: memory for the next would be new, which costs page faults. */
  private INDArray batch(INDArray noise, int @Nullable [] labels) {
    INDArray batch = sampler.sample(field, noise, labels);
    if (noise.closeable() && !batch.data().sameUnderlyingData(noise.data())) {
      noise.close();
    }
    return batch;
  }

  /**
   * Repeats labels for a number of samples: the given ones in turn, from the start again when they
   * are through.
   *
   * @param labels at least one
   * @param count how many labels to return, ≥ 0
   * @return a new array of {@code count} labels
   */
  public static int[] cycle(int[] labels, int count) {
    if (labels.length == 0) {
      throw new IllegalArgumentException("labels must not be empty, got []");
    }
    int[] cycled = new int[count];
    Arrays.setAll(cycled, i -> labels[i % labels.length]);
    return cycled;
  }

  private INDArray noise(long seed, int from, int to) {
    int size = Math.multiplyExact(to - from, sampleSize);
    if (type == DataType.FLOAT) {
      float[] values = new float[size];
      IntStream.range(from, to)
          .parallel()
          .forEach(i -> stream(seed, i).normals(values, (i - from) * sampleSize, sampleSize));
      return Batches.of(values, shape(to - from));
    }
    double[] values = new double[size];
    for (int i = from; i < to; i++) {
      double[] normals = stream(seed, i).normals(sampleSize);
      System.arraycopy(normals, 0, values, (i - from) * sampleSize, sampleSize);
    }
    return Nd4j.createFromArray(values).reshape('c', shape(to - from));
  }

  private static RandomStream stream(long seed, int sample) {
    return new RandomStream(seed, sample, Purpose.SAMPLING);
  }

  private long[] shape(int count) {
    return LongStream.concat(LongStream.of(count), Arrays.stream(sampleShape)).toArray();
  }

  private static INDArrayIndex[] rows(int from, int to) {
    return new INDArrayIndex[] {
      NDArrayIndex.interval(from, to), NDArrayIndex.all(), NDArrayIndex.all(), NDArrayIndex.all()
    };
  }
}
