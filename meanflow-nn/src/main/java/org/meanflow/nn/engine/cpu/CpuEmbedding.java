package org.meanflow.nn.engine.cpu;

import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.EmbeddingKernels;
import org.meanflow.nn.engine.PatchOrder;
import org.meanflow.nn.engine.Tensor;

/** Embeddings. Times are few, so their features are computed in float64, to float32's precision. */
final class CpuEmbedding implements EmbeddingKernels {
  private static final double MAX_PERIOD = 10_000;
  private static final double TURN = 2 * Math.PI;

  /** 1.5·2⁵²: a small number plus this has lost its fraction. */
  private static final double ROUNDER = 0x1.8p52;

  private static final int ROW_SLOT = 1;
  private static final int OLD_SLOT = 2;

  private final Workers workers;

  CpuEmbedding(Workers workers) {
    this.workers = workers;
  }

  /** The turns that each feature makes in a unit of time. */
  private static double[] frequencies(double scale, int n) {
    double[] frequencies = new double[n];
    for (int k = 0; k < n; k++) {
      frequencies[k] = scale * Math.exp(-Math.log(MAX_PERIOD) * k / n) / TURN;
    }
    return frequencies;
  }

  /**
   * The sine of a number of turns, to 10⁻⁹ below a thousand turns: a fifth of the time that {@code
   * Math.sin} takes, and a twentieth in a loop that the compiler turns into vector instructions.
   */
  private static double sin(double turns) {
    double half = 2 * turns + ROUNDER - ROUNDER;
    double x = TURN * (turns - half / 2); // in ±π/2
    double z = x * x;
    double p = 1 / 6227020800.0;
    p = p * z - 1 / 39916800.0;
    p = p * z + 1 / 362880.0;
    p = p * z - 1 / 5040.0;
    p = p * z + 1 / 120.0;
    p = p * z - 1 / 6.0;
    double odd = half - 2 * (half / 2 + ROUNDER - ROUNDER); // 0, or ±1
    return (1 - 2 * odd * odd) * (x + x * z * p);
  }

  private static double cos(double turns) {
    return sin(turns + 0.25);
  }

  /** The sines of f·t + shift for all frequencies f. */
  private static void sines(double[] frequencies, double t, double shift, double[] sines) {
    for (int k = 0; k < frequencies.length; k++) {
      sines[k] = sin(frequencies[k] * t + shift);
    }
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
    double[] frequencies = frequencies(scale, n);
    workers.run(
        Math.toIntExact(t.size()),
        (b, scratch) -> {
          double[] values = new double[n];
          for (int part = 0; part < 2; part++) { // cosines, then sines
            sines(frequencies, get(times, b), part == 0 ? 0.25 : 0, values);
            long first = (2L * b + part) * n;
            for (int k = 0; k < n; k++) {
              Simd.set(to.address(first + k), (float) values[k]);
            }
          }
        });
  }

  @Override
  public void timeFeaturesTangent(double scale, Tensor t, Tensor dt, Tensor dy) {
    CpuTensor times = CpuTensor.of(t);
    CpuTensor rates = CpuTensor.of(dt);
    CpuTensor to = CpuTensor.of(dy);
    int n = Math.toIntExact(dy.dim(1) / 2);
    double[] frequencies = frequencies(scale, n);
    workers.run(
        Math.toIntExact(dt.size()),
        (b, scratch) -> {
          for (int k = 0; k < n; k++) {
            double turns = frequencies[k] * get(times, b);
            double rate = TURN * frequencies[k] * get(rates, b);
            put(to, 2L * n * b + k, -rate * sin(turns), false);
            put(to, 2L * n * b + n + k, rate * cos(turns), false);
          }
        });
  }

  @Override
  public void timeFeaturesBackward(double scale, Tensor t, Tensor gy, Cotangent gt) {
    CpuTensor times = CpuTensor.of(t);
    CpuTensor g = CpuTensor.of(gy);
    CpuTensor to = CpuTensor.of(gt.target());
    int n = Math.toIntExact(gy.dim(1) / 2);
    double[] frequencies = frequencies(scale, n);
    workers.run(
        Math.toIntExact(t.size()),
        (b, scratch) -> {
          double sum = 0;
          for (int k = 0; k < n; k++) {
            double turns = frequencies[k] * get(times, b);
            double rate = TURN * frequencies[k];
            sum += -rate * sin(turns) * get(g, 2L * n * b + k);
            sum += rate * cos(turns) * get(g, 2L * n * b + n + k);
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
      Simd.copyRow(from.address(indices[b] * width), to.address(b * width), width);
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
              for (int column = 0; column < columns; column++) {
                long from = pixels.address(pixel + (long) column * patch);
                long value = values.address((firstToken + column) * perToken + within);
                if (toTokens) {
                  move(from, Float.BYTES, value, columnStep * Float.BYTES, patch, add);
                } else {
                  move(value, columnStep * Float.BYTES, from, Float.BYTES, patch, add);
                }
              }
            }
          }
        });
  }

  /** {@code count} floats from addresses {@code fromStep} apart to some {@code toStep} apart. */
  private static void move(long from, int fromStep, long to, int toStep, int count, boolean add) {
    if (!add && fromStep == Float.BYTES && toStep == Float.BYTES) {
      Simd.copy(from, to, count);
      return;
    }
    for (int i = 0; i < count; i++) {
      float x = Simd.get(from + (long) i * fromStep);
      long target = to + (long) i * toStep;
      Simd.set(target, add ? Simd.get(target) + x : x);
    }
  }
}
