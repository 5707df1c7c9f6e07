package org.meanflow.nn.engine;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.nd4j.linalg.api.buffer.DataType;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/** The kernels that a step spends its time in, each by itself, at the sizes of {@code mnist-s2}. */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MICROSECONDS)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
@Fork(1)
public class KernelBenchmark {
  private static final int BATCH = 16;
  private static final int TANGENTS = 4;
  private static final int TOKENS = 256;
  private static final int WIDTH = 384;
  private static final int HIDDEN = 4 * WIDTH;
  private static final int HEADS = 6;
  private static final int PARAMETERS = 1 << 24;
  private static final Norm NORM = Norm.rms();
  private static final OptimizerKernels.AdamWUpdate UPDATE =
      new OptimizerKernels.AdamWUpdate(1e-4, 0.9, 0.95, 1e-8, 0, 1, 1);

  /** Engines to compare. */
  @Param("cpu")
  public String engineName;

  /** Arithmetic of the products. */
  @Param({"FP32", "BF16"})
  public Precision precision;

  private final List<Tensor> tensors = new ArrayList<>();
  private Engine engine;
  private Kernels k;
  private Tensor x;
  private Tensor y;
  private Tensor hidden;
  private Tensor activated;
  private Tensor hiddenGradient;
  private Tensor weight;
  private Tensor weightGradient;
  private Tensor bias;
  private Tensor modulation;
  private Tensor modulationGradient;
  private Tensor qkv;
  private Tensor qkvGradient;
  private Tensor gain;
  private Tensor gainGradient;
  private Tensor[] flat;
  private Saved savedAttention;
  private Saved savedNorm;
  private Saved savedGelu;

  /** Random numbers everywhere. */
  @Setup
  public void allocate() {
    engine = Engines.create(engineName, precision);
    k = engine.kernels();
    x = random(Storage.FULL, BATCH, TOKENS, WIDTH);
    y = random(Storage.COMPACT, BATCH, TOKENS, WIDTH);
    hidden = random(Storage.COMPACT, BATCH, TOKENS, HIDDEN);
    activated = random(Storage.COMPACT, BATCH, TOKENS, HIDDEN);
    hiddenGradient = random(Storage.COMPACT, BATCH, TOKENS, HIDDEN);
    weight = random(Storage.FULL, HIDDEN, WIDTH);
    weightGradient = random(Storage.FULL, HIDDEN, WIDTH);
    bias = random(Storage.FULL, HIDDEN);
    modulation = random(Storage.FULL, BATCH, 6 * WIDTH);
    modulationGradient = random(Storage.FULL, BATCH, 6 * WIDTH);
    qkv = random(Storage.COMPACT, BATCH, TOKENS, 3 * WIDTH);
    qkvGradient = random(Storage.COMPACT, BATCH, TOKENS, 3 * WIDTH);
    gain = random(Storage.FULL, WIDTH / HEADS);
    gainGradient = random(Storage.FULL, WIDTH / HEADS);
    flat = new Tensor[5];
    for (int i = 0; i < flat.length; i++) {
      flat[i] = random(Storage.FULL, PARAMETERS);
    }
    k.elementwise().fill(flat[3], 1); // second moments are not negative
    savedAttention = k.attention().attention(HEADS, NORM, qkv, gain, gain, y, true);
    savedNorm = k.modulation().normModulate(NORM, x, modulation, 0, 1, y, true);
    savedGelu = k.elementwise().gelu(hidden, activated, true);
  }

  /** Gives everything back. */
  @TearDown
  public void close() {
    savedAttention.close();
    savedNorm.close();
    savedGelu.close();
    tensors.forEach(Tensor::close);
    engine.close();
  }

  @Benchmark
  public void linear() {
    k.linear().linear(y, weight, bias, BATCH * TOKENS, hidden);
  }

  @Benchmark
  public void linearBackward() {
    k.linear()
        .linearBackward(
            y,
            weight,
            activated,
            new Cotangent(qkvGradient.view(0, y.shape()), false),
            new Cotangent(weightGradient, false),
            new Cotangent(bias, false));
  }

  @Benchmark
  public void attention() {
    k.attention().attention(HEADS, NORM, qkv, gain, gain, y, true).close();
  }

  @Benchmark
  public void attentionTangent() {
    k.attention()
        .attentionTangent(
            HEADS,
            NORM,
            qkv.rows(0, TANGENTS),
            gain,
            gain,
            savedAttention,
            qkvGradient.rows(0, TANGENTS),
            y.rows(0, TANGENTS));
  }

  @Benchmark
  public void attentionBackward() {
    k.attention()
        .attentionBackward(
            HEADS,
            NORM,
            qkv,
            gain,
            gain,
            savedAttention,
            y,
            new Cotangent(qkvGradient, false),
            new Cotangent(gainGradient, false),
            new Cotangent(gainGradient, false));
  }

  @Benchmark
  public void normModulate() {
    k.modulation().normModulate(NORM, x, modulation, 0, 1, y, true).close();
  }

  @Benchmark
  public void normModulateBackward() {
    k.modulation()
        .normModulateBackward(
            NORM,
            x,
            modulation,
            0,
            1,
            savedNorm,
            y,
            new Cotangent(flat[4].view(0, x.shape()), false),
            new Cotangent(modulationGradient, false));
  }

  @Benchmark
  public void gelu() {
    k.elementwise().gelu(hidden, activated, true).close();
  }

  @Benchmark
  public void geluSlope() {
    k.elementwise().geluSlope(hidden, savedGelu, activated, hiddenGradient, false);
  }

  @Benchmark
  public void adamW() {
    k.optimizer()
        .adamW(
            UPDATE,
            flat[0],
            flat[1],
            flat[2],
            flat[3],
            new OptimizerKernels.Average(0.999, flat[4]));
  }

  private Tensor random(Storage storage, long... shape) {
    Tensor tensor = engine.allocate(storage, shape);
    engine.write(
        new RandomStream(0, tensors.size(), Purpose.NOISE).normalArray(DataType.FLOAT, shape),
        tensor);
    tensors.add(tensor);
    return tensor;
  }
}
