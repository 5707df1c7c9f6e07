package org.meanflow.nn.engine.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.FeedForwardKernels;
import org.meanflow.nn.engine.FeedForwardKernels.Gradients;
import org.meanflow.nn.engine.FeedForwardKernels.Weights;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.engine.cuda.EmulatedDevice.Controls;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;

/** What cuBLASLt does beside the products of a feed-forward network, on the emulated device. */
@Tag("cuda-emulated")
class CudaFeedForwardTest {
  private static final int WIDTH = 12;
  private static final int ROWS = 7;
  private static final int TANGENTS = 3;
  private static final int GELU = 32;
  private static final int GELU_SLOPE = 64;

  private Controls controls;

  @BeforeEach
  void start() {
    controls = EmulatedDevice.controls();
    controls.emulatedReset();
  }

  @AfterEach
  void reset() {
    controls.emulatedReset();
    controls.emulatedSetCapability(9, 0);
  }

  private static CudaEngine engine(Precision precision, boolean fused) {
    return new CudaEngine(EmulatedDevice.cuda(), precision, false, fused);
  }

  private static INDArray random(int seed, long... shape) {
    return new RandomStream(seed, 0, Purpose.NOISE).normalArray(DataType.FLOAT, shape);
  }

  private static Tensor activation(CudaEngine engine, int seed, long... shape) {
    Tensor tensor = engine.allocate(Storage.COMPACT, shape);
    engine.write(random(seed, shape), tensor);
    return tensor;
  }

  /** How many launches each rule took, and what came out. */
  private record Pass(List<Long> launches, List<INDArray> results) {}

  /** Value without and with something kept, tangent and all cotangents. */
  private Pass pass(CudaEngine engine, int hidden, int out) {
    try (Tensor x = activation(engine, 1, ROWS, WIDTH);
        Tensor w1 = engine.copyOf(random(2, hidden, WIDTH).muli(0.3));
        Tensor b1 = engine.copyOf(random(3, hidden));
        Tensor w2 = engine.copyOf(random(4, out, hidden).muli(0.3));
        Tensor b2 = engine.copyOf(random(5, out));
        Tensor evaluated = engine.allocate(Storage.COMPACT, ROWS, out);
        Tensor y = engine.allocate(Storage.COMPACT, ROWS, out);
        Tensor dx = activation(engine, 6, TANGENTS, WIDTH);
        Tensor dy = engine.allocate(Storage.COMPACT, TANGENTS, out);
        Tensor gy = activation(engine, 7, ROWS, out);
        Tensor gx = engine.allocate(Storage.COMPACT, ROWS, WIDTH);
        Tensor gw1 = engine.allocate(hidden, WIDTH);
        Tensor gb1 = engine.allocate(hidden);
        Tensor gw2 = engine.allocate(out, hidden);
        Tensor gb2 = engine.allocate(out)) {
      FeedForwardKernels kernels = engine.kernels().feedForward();
      Weights w = new Weights(w1, b1, w2, b2);
      kernels.feedForward(x, w, y, false); // converts the weights once, if they need that
      long start = controls.emulatedLaunches();
      kernels.feedForward(x, w, evaluated, false);
      long evaluate = controls.emulatedLaunches();
      try (Saved saved = kernels.feedForward(x, w, y, true)) {
        long keep = controls.emulatedLaunches();
        kernels.feedForwardTangent(w, saved, dx, dy);
        long tangent = controls.emulatedLaunches();
        Gradients gradients =
            new Gradients(
                new Cotangent(gw1, false),
                new Cotangent(gb1, false),
                new Cotangent(gw2, false),
                new Cotangent(gb2, false));
        kernels.feedForwardBackward(x, w, saved, gy, new Cotangent(gx, false), gradients);
        return new Pass(
            List.of(
                evaluate - start,
                keep - evaluate,
                tangent - keep,
                controls.emulatedLaunches() - tangent),
            Stream.of(evaluated, y, dy, gx, gw1, gb1, gw2, gb2).map(engine::read).toList());
      }
    }
  }

  /** Launches without and with something kept, of the tangent and of the backward rule. */
  @ParameterizedTest
  @CsvSource({
    "FP32, 24, 20, 2, 2, 3, 4",
    "TF32, 24, 20, 2, 2, 3, 4",
    "BF16, 24, 20, 2, 2, 3, 4",
    "FP32, 20, 24, 2, 3, 3, 5", // what is kept must have rows of a multiple of 8
    "BF16, 24, 1, 2, 2, 3, 5", // no slope in a product whose inner extent is 1
  })
  void fusedNetworksAreProductsAlone(
      Precision precision,
      int hidden,
      int out,
      long evaluate,
      long keep,
      long tangent,
      long backward) {
    try (CudaEngine engine = engine(precision, true)) {
      assertThat(pass(engine, hidden, out).launches)
          .containsExactly(evaluate, keep, tangent, backward);
    }
  }

  @ParameterizedTest
  @EnumSource(
      value = Precision.class,
      names = {"FP32", "TF32", "BF16"})
  void theKernelsInTheirPlaceAgree(Precision precision) {
    for (int out : new int[] {20, 1}) {
      Pass fused;
      Pass refused;
      Pass unasked;
      try (CudaEngine engine = engine(precision, true)) {
        fused = pass(engine, 24, out);
      }
      controls.emulatedRefuseEpilogues(GELU | GELU_SLOPE);
      try (CudaEngine engine = engine(precision, true)) {
        refused = pass(engine, 24, out);
      }
      controls.emulatedRefuseEpilogues(0);
      try (CudaEngine engine = engine(precision, false)) {
        unasked = pass(engine, 24, out);
      }
      assertThat(refused.launches).containsExactly(3L, 3L, 3L, 5L);
      assertThat(unasked.launches).isEqualTo(refused.launches);
      assertThat(unasked.results).isEqualTo(refused.results);
      // Fused, a GELU is taken of what is not rounded yet; and numbers that differ in their last
      // bit
      // may be rounded apart as factors. A few roundings to the precision's type, of the largest.
      double bound =
          switch (precision) {
            case BF16 -> 4 * 0x1p-8;
            case TF32 -> 4 * 0x1p-11;
            default -> 4 * 0x1p-22;
          };
      for (int i = 0; i < fused.results.size(); i++) {
        INDArray e = refused.results.get(i);
        double distance = fused.results.get(i).sub(e).amaxNumber().doubleValue();
        double scale = Math.max(1, e.amaxNumber().doubleValue());
        assertThat(distance <= bound * scale).as("result %s: %s", i, distance).isTrue();
      }
    }
  }

  /** Without a setting: as exact as float32 asks for, and not where it was found to be slower. */
  @ParameterizedTest
  @CsvSource({"FP32, 9, 3", "TF32, 9, 2", "BF16, 9, 2", "BF16, 8, 3"})
  void byDefaultItDependsOnPrecisionAndGpu(Precision precision, int capability, long launches) {
    controls.emulatedSetCapability(capability, 0);
    Cuda cuda = new Cuda(EmulatedDevice.reader(EmulatedDevice.settings()));
    try (CudaEngine engine = new CudaEngine(cuda, precision, false)) {
      assertThat(pass(engine, 24, 20).launches.get(1)).isEqualTo(launches);
    }
  }
}
