package org.meanflow.nn.engine.cpu;

import java.lang.foreign.MemorySegment;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.EmbeddingKernels;
import org.meanflow.nn.engine.PatchOrder;
import org.meanflow.nn.engine.Tensor;

/** Embeddings. Times are few, so their features are computed in float64. */
final class CpuEmbedding implements EmbeddingKernels {
  private static final double MAX_PERIOD = 10_000;
  private static final int ROW_SLOT = 1;
  private static final int OLD_SLOT = 2;

  private final Workers workers;

  CpuEmbedding(Workers workers) {
    this.workers = workers;
  }

  private static double frequency(int k, int n) {
    return Math.exp(-Math.log(MAX_PERIOD) * k / n);
  }

  private static float get(CpuTensor x, long i) {
    return Simd.get(x.address(i));
  }

  private static void put(CpuTensor x, long i, double value, boolean add) {
    Simd.set(x.address(i), (float) (add ? Simd.get(x.address(i)) + value : value));
  }

  @Override
  public void timeFeatures(double scale, Tensor t, Tensor y) {
    CpuTensor times = CpuTensor.of(t);
    CpuTensor to = CpuTensor.of(y);
    int n = Math.toIntExact(y.dim(1) / 2);
    workers.run(
        Math.toIntExact(t.size()),
        (b, scratch) -> {
          for (int k = 0; k < n; k++) {
            double angle = scale * get(times, b) * frequency(k, n);
            put(to, 2L * n * b + k, Math.cos(angle), false);
            put(to, 2L * n * b + n + k, Math.sin(angle), false);
          }
        });
  }

  @Override
  public void timeFeaturesTangent(double scale, Tensor t, Tensor dt, Tensor dy) {
    CpuTensor times = CpuTensor.of(t);
    CpuTensor rates = CpuTensor.of(dt);
    CpuTensor to = CpuTensor.of(dy);
    int n = Math.toIntExact(dy.dim(1) / 2);
    workers.run(
        Math.toIntExact(dt.size()),
        (b, scratch) -> {
          for (int k = 0; k < n; k++) {
            double f = scale * frequency(k, n);
            double angle = f * get(times, b);
            double rate = f * get(rates, b);
            put(to, 2L * n * b + k, -rate * Math.sin(angle), false);
            put(to, 2L * n * b + n + k, rate * Math.cos(angle), false);
          }
        });
  }

  @Override
  public void timeFeaturesBackward(double scale, Tensor t, Tensor gy, Cotangent gt) {
    CpuTensor times = CpuTensor.of(t);
    CpuTensor g = CpuTensor.of(gy);
    CpuTensor to = CpuTensor.of(gt.target());
    int n = Math.toIntExact(gy.dim(1) / 2);
    workers.run(
        Math.toIntExact(t.size()),
        (b, scratch) -> {
          double sum = 0;
          for (int k = 0; k < n; k++) {
            double f = scale * frequency(k, n);
            double angle = f * get(times, b);
            sum += -f * Math.sin(angle) * get(g, 2L * n * b + k);
            sum += f * Math.cos(angle) * get(g, 2L * n * b + n + k);
          }
          put(to, b, sum, gt.add());
        });
  }

  @Override
  public void embedding(Tensor table, int[] indices, Tensor y) {
    CpuTensor from = CpuTensor.of(table);
    CpuTensor to = CpuTensor.of(y);
    long width = table.dim(1);
    for (int b = 0; b < indices.length; b++) {
      MemorySegment.copy(
          Simd.ALL,
          from.address(indices[b] * width),
          Simd.ALL,
          to.address(b * width),
          width * Float.BYTES);
    }
  }

  @Override
  public void embeddingBackward(int[] indices, Tensor gy, Cotangent gTable) {
    CpuTensor g = CpuTensor.of(gy);
    CpuTensor to = CpuTensor.of(gTable.target());
    int width = Math.toIntExact(to.dim(1));
    int padded = Simd.padded(width);
    workers.run(
        1,
        (one, scratch) -> {
          if (!gTable.add()) {
            for (long row = 0; row < to.dim(0); row++) {
              long out = Simd.out(to, row * width, width, scratch, OLD_SLOT);
              Simd.clear(out, padded);
              Simd.done(to, row * width, width, out);
            }
          }
          for (int b = 0; b < indices.length; b++) {
            long row = Simd.in(g, (long) b * width, width, scratch, ROW_SLOT);
            long sum = Simd.in(to, (long) indices[b] * width, width, scratch, OLD_SLOT);
            Simd.addTo(row, sum, padded);
            Simd.done(to, (long) indices[b] * width, width, sum);
          }
        });
  }

  @Override
  public void patchify(PatchOrder order, int patch, Tensor images, Tensor tokens, boolean add) {
    move(order, patch, images, tokens, add, true);
  }

  @Override
  public void unpatchify(PatchOrder order, int patch, Tensor tokens, Tensor images, boolean add) {
    move(order, patch, images, tokens, add, false);
  }

  private void move(
      PatchOrder order, int patch, Tensor images, Tensor tokens, boolean add, boolean toTokens) {
    CpuTensor pixels = CpuTensor.of(images);
    CpuTensor values = CpuTensor.of(tokens);
    int channels = Math.toIntExact(images.dim(1));
    int height = Math.toIntExact(images.dim(2));
    int width = Math.toIntExact(images.dim(3));
    int columns = width / patch;
    int perToken = channels * patch * patch;
    // The steps of a value within its token.
    int channelStep = order == PatchOrder.CHANNEL_FIRST ? patch * patch : 1;
    int rowStep = order == PatchOrder.CHANNEL_FIRST ? patch : patch * channels;
    int columnStep = order == PatchOrder.CHANNEL_FIRST ? 1 : channels;
    workers.run(
        Math.toIntExact(images.dim(0)),
        (b, scratch) -> {
          for (int c = 0; c < channels; c++) {
            for (int i = 0; i < height; i++) {
              long pixel = (((long) b * channels + c) * height + i) * width;
              long firstToken = ((long) b * (height / patch) + i / patch) * columns;
              int within = c * channelStep + i % patch * rowStep;
              for (int j = 0; j < width; j++) {
                long value =
                    (firstToken + j / patch) * perToken + within + (long) (j % patch) * columnStep;
                if (toTokens) {
                  put(values, value, get(pixels, pixel + j), add);
                } else {
                  put(pixels, pixel + j, get(values, value), add);
                }
              }
            }
          }
        });
  }
}
