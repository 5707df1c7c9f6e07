package org.meanflow.nn.engine.cuda;

import java.lang.foreign.MemorySegment;
import org.meanflow.nn.engine.OptimizerKernels;
import org.meanflow.nn.engine.Tensor;

/** Norm, AdamW and moving averages, each a pass over the flat buffers. */
final class CudaOptimizer implements OptimizerKernels {
  /** Averages that the kernel takes along. */
  private static final int AVERAGES = 4;

  private final CudaEngine engine;

  CudaOptimizer(CudaEngine engine) {
    this.engine = engine;
  }

  @Override
  public double squaredNorm(Tensor x) {
    long n = x.size();
    if (n == 0) {
      return 0;
    }
    int parts = (int) Math.min(CudaStream.ceilDiv(n, 4096), 1024);
    // Float64 in the memory of twice as many float32.
    try (CudaTensor partial = engine.floats(2L * parts);
        CudaTensor sum = engine.floats(2)) {
      engine
          .launch("optimizer", "squared_norm")
          .in((CudaTensor) x)
          .pointer(partial)
          .i64(n)
          .launch(parts, 1, 1, 256, 0);
      engine
          .launch("optimizer", "sum_doubles")
          .pointer(partial)
          .i32(parts)
          .pointer(sum)
          .launch(1, 1, 1, 256, 0);
      double[] result = new double[1];
      MemorySegment bytes = MemorySegment.ofArray(result);
      engine.transfers().download(sum.address(), bytes);
      return result[0];
    }
  }

  @Override
  public void adamW(AdamWUpdate u, Tensor p, Tensor g, Tensor m, Tensor v, Average... averages) {
    float[] numbers = {
      (float) u.beta1(),
      (float) ((1 - u.beta1()) * u.gradientScale()),
      (float) u.beta2(),
      (float) ((1 - u.beta2()) * u.gradientScale() * u.gradientScale()),
      (float) (1 / (1 - Math.pow(u.beta2(), (double) u.step()))),
      (float) u.epsilon(),
      (float) (u.rate() / (1 - Math.pow(u.beta1(), (double) u.step()))),
      (float) (1 - u.rate() * u.weightDecay()),
      0,
      0,
      0,
      0
    };
    if (averages.length > AVERAGES) {
      throw new IllegalArgumentException(
          "the cuda engine has up to %d moving averages, got %d"
              .formatted(AVERAGES, averages.length));
    }
    for (int i = 0; i < averages.length; i++) {
      numbers[8 + i] = (float) (1 - averages[i].decay());
    }
    CudaTensor parameters = (CudaTensor) p;
    long n = p.size();
    try (CudaTensor device = engine.floats(numbers.length)) {
      engine.transfers().upload(MemorySegment.ofArray(numbers), device.address());
      CudaStream launch =
          engine
              .launch("optimizer", "adamw")
              .written(parameters)
              .pointer((CudaTensor) g)
              .written((CudaTensor) m)
              .written((CudaTensor) v);
      Block compact = parameters.block.compact;
      if (compact != null && parameters.offset == 0 && n * 4 >= parameters.block.bytes - 12) {
        // The copy for products stays up to date.
        parameters.block.compactVersion = parameters.block.version;
        launch.i64(compact.address);
      } else {
        launch.i64(0);
      }
      for (int i = 0; i < AVERAGES; i++) {
        launch.written(i < averages.length ? (CudaTensor) averages[i].average() : null);
      }
      for (int i = 0; i < AVERAGES; i++) {
        launch.written(i < averages.length ? (CudaTensor) averages[i].remainder() : null);
      }
      launch.pointer(device).i64(n).launchFlat(n);
    }
  }
}
