package org.meanflow.nn.engine.nd4j;

import static org.meanflow.nn.engine.nd4j.Nd4jOps.array;
import static org.meanflow.nn.engine.nd4j.Nd4jOps.gemm;

import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.EmbeddingKernels;
import org.meanflow.nn.engine.PatchOrder;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/** Embeddings; times are few, so their features are computed in float64 on the host. */
final class Nd4jEmbedding implements EmbeddingKernels {
  private static final double MAX_PERIOD = 10_000;

  private final Nd4jEngine engine;
  private final Nd4jOps ops;

  Nd4jEmbedding(Nd4jEngine engine, Nd4jOps ops) {
    this.engine = engine;
    this.ops = ops;
  }

  @Override
  public void timeFeatures(double scale, Tensor t, Tensor y) {
    int n = Math.toIntExact(y.dim(1) / 2);
    double[] times = doubles(t);
    double[] features = new double[times.length * 2 * n];
    for (int b = 0; b < times.length; b++) {
      for (int k = 0; k < n; k++) {
        double angle = scale * times[b] * frequency(k, n);
        features[2 * n * b + k] = Math.cos(angle);
        features[2 * n * b + n + k] = Math.sin(angle);
      }
    }
    engine.write(Nd4j.createFromArray(features), y);
  }

  @Override
  public void timeFeaturesTangent(double scale, Tensor t, Tensor dt, Tensor dy) {
    int n = Math.toIntExact(dy.dim(1) / 2);
    double[] rates = doubles(dt);
    double[] slopes = timeSlopes(scale, t, rates.length, n);
    for (int i = 0; i < slopes.length; i++) {
      slopes[i] *= rates[i / (2 * n)];
    }
    engine.write(Nd4j.createFromArray(slopes), dy);
  }

  @Override
  public void timeFeaturesBackward(double scale, Tensor t, Tensor gy, Cotangent gt) {
    int n = Math.toIntExact(gy.dim(1) / 2);
    double[] g = doubles(gy);
    int batch = Math.toIntExact(t.size());
    double[] slopes = timeSlopes(scale, t, batch, n);
    double[] sums = new double[batch];
    for (int i = 0; i < slopes.length; i++) {
      sums[i / (2 * n)] += slopes[i] * g[i];
    }
    INDArray result = Nd4j.createFromArray(sums).castTo(engine.precision().dataType());
    ops.into(gt.target(), gt.add(), target -> target.assign(result.reshape(target.shape())));
  }

  private static double[] timeSlopes(double scale, Tensor t, int batch, int n) {
    double[] times = doubles(t);
    double[] slopes = new double[batch * 2 * n];
    for (int b = 0; b < batch; b++) {
      for (int k = 0; k < n; k++) {
        double rate = scale * frequency(k, n);
        slopes[2 * n * b + k] = -rate * Math.sin(rate * times[b]);
        slopes[2 * n * b + n + k] = rate * Math.cos(rate * times[b]);
      }
    }
    return slopes;
  }

  private static double frequency(int k, int n) {
    return Math.exp(-Math.log(MAX_PERIOD) * k / n);
  }

  private static double[] doubles(Tensor x) {
    return array(x.reshape(x.size())).castTo(DataType.DOUBLE).toDoubleVector();
  }

  @Override
  public void embedding(Tensor table, int[] indices, Tensor y) {
    try (Tensor oneHot = oneHot(indices, table.dim(0))) {
      gemm(oneHot, false, table, false, y, false);
    }
  }

  @Override
  public void embeddingBackward(int[] indices, Tensor gy, Cotangent gTable) {
    try (Tensor oneHot = oneHot(indices, gTable.target().dim(0))) {
      gemm(oneHot, true, gy, false, gTable.target(), gTable.add());
    }
  }

  private Tensor oneHot(int[] indices, long classes) {
    double[] values = new double[Math.toIntExact(indices.length * classes)];
    for (int b = 0; b < indices.length; b++) {
      values[Math.toIntExact(b * classes + indices[b])] = 1;
    }
    return engine.copyOf(Nd4j.createFromArray(values).reshape(indices.length, classes));
  }

  @Override
  public void patchify(PatchOrder order, int patch, Tensor images, Tensor tokens, boolean add) {
    INDArray target = grid(order, patch, images, tokens);
    INDArray source = patches(order, patch, images);
    if (add) {
      target.addi(source);
    } else {
      target.assign(source);
    }
  }

  @Override
  public void unpatchify(PatchOrder order, int patch, Tensor tokens, Tensor images, boolean add) {
    INDArray target = patches(order, patch, images);
    INDArray source = grid(order, patch, images, tokens);
    if (add) {
      target.addi(source);
    } else {
      target.assign(source);
    }
  }

  /** The tokens as (sample, patch row, patch column, values of the patch in order). */
  private static INDArray grid(PatchOrder order, int patch, Tensor images, Tensor tokens) {
    long batch = images.dim(0);
    long channels = images.dim(1);
    long rows = images.dim(2) / patch;
    long columns = images.dim(3) / patch;
    return array(
        switch (order) {
          case CHANNEL_FIRST -> tokens.reshape(batch, rows, columns, channels, patch, patch);
          case CHANNEL_LAST -> tokens.reshape(batch, rows, columns, patch, patch, channels);
        });
  }

  /** The images in the same order of axes. */
  private static INDArray patches(PatchOrder order, int patch, Tensor images) {
    INDArray axes =
        array(
            images.reshape(
                images.dim(0),
                images.dim(1),
                images.dim(2) / patch,
                patch,
                images.dim(3) / patch,
                patch));
    return switch (order) {
      case CHANNEL_FIRST -> axes.permute(0, 2, 4, 1, 3, 5);
      case CHANNEL_LAST -> axes.permute(0, 2, 4, 3, 5, 1);
    };
  }
}
