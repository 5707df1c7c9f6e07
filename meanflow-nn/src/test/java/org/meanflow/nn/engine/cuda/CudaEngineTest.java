package org.meanflow.nn.engine.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.ElementwiseKernels;
import org.meanflow.nn.engine.LinearKernels;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.engine.cuda.EmulatedDevice.Controls;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/** Memory, transfers, graphs and errors of the engine, on the emulated device. */
@Tag("cuda-emulated")
class CudaEngineTest {
  private static final int LAUNCH_FAILED = 719;
  private static final int ILLEGAL_ADDRESS = 700;

  private Controls controls;

  @BeforeEach
  void start() {
    controls = EmulatedDevice.controls();
    controls.emulatedReset();
  }

  @AfterEach
  void reset() {
    controls.emulatedReset();
    controls.emulatedSetMemoryLimit(4L << 30);
    controls.emulatedSetCapability(9, 0);
    controls.emulatedSetStreams(0);
  }

  private static CudaEngine engine(Precision precision, boolean graphs) {
    return new CudaEngine(EmulatedDevice.cuda(), precision, graphs);
  }

  private static CudaEngine engine() {
    return engine(Precision.FP32, true);
  }

  private static INDArray random(int seed, long... shape) {
    return new RandomStream(seed, 0, Purpose.NOISE).normalArray(DataType.FLOAT, shape);
  }

  @Test
  void arraysOfAnyTypeAndOrderComeBackAsTheyWent() {
    INDArray matrix = random(1, 5, 7);
    try (CudaEngine engine = engine()) {
      for (INDArray source :
          List.of(
              matrix,
              matrix.transpose(),
              matrix.getRow(3, true),
              matrix.getColumn(2, true),
              matrix.castTo(DataType.DOUBLE),
              Nd4j.createFromArray(new int[] {3, -1, 7}))) {
        try (Tensor tensor = engine.copyOf(source)) {
          INDArray back = engine.read(tensor);
          assertThat(back).isEqualTo(source.castTo(DataType.FLOAT).dup('c'));
        }
      }
    }
  }

  @Test
  void uploadsLargerThanThePageLockedRingComeBackWhole() {
    long n = 11L << 20; // 44 MB in a ring of 32
    INDArray source = Nd4j.linspace(DataType.FLOAT, 0, 1, n);
    try (CudaEngine engine = engine();
        Tensor first = engine.copyOf(source);
        Tensor second = engine.copyOf(source.muli(2))) {
      assertThat(engine.read(first).mul(2)).isEqualTo(source);
      assertThat(engine.read(second)).isEqualTo(source);
    }
  }

  @Test
  void compactTensorsAreRoundedToBfloat16() {
    // 1 + 2⁻⁸ lies half-way between neighbours of 8 bits: ties go to the even one.
    INDArray source = Nd4j.createFromArray(1f, 1.00390625f, 1.01171875f, -3.1415927f, 65535f);
    try (CudaEngine engine = engine(Precision.BF16, true);
        Tensor tensor = engine.allocate(Storage.COMPACT, 5)) {
      engine.write(source, tensor);
      assertThat(engine.read(tensor).toFloatVector())
          .containsExactly(1f, 1f, 1.015625f, -3.140625f, 65536f);
      assertThat(tensor.storage()).isEqualTo(Storage.COMPACT);
    }
  }

  @Test
  void productsSeeParametersThatChangedSinceTheirCompactCopyWasMade() {
    try (CudaEngine engine = engine(Precision.BF16, true);
        Tensor parameters = engine.copyOf(Nd4j.createFromArray(1f, 2f, 3f, 4f, 5f, 6f));
        Tensor x = engine.copyOf(Nd4j.createFromArray(1f, 1f).reshape(1, 2));
        Tensor y = engine.allocate(1, 2)) {
      Tensor w = parameters.view(2, 2, 2);
      engine.kernels().linear().linear(x, w, null, 1, y);
      assertThat(engine.read(y).toFloatVector()).containsExactly(7, 11);
      engine.kernels().elementwise().scale(1, parameters, parameters, true);
      engine.kernels().linear().linear(x, w, null, 1, y);
      assertThat(engine.read(y).toFloatVector()).containsExactly(14, 22);
      engine.write(Nd4j.createFromArray(9f), parameters.view(3, 1));
      engine.kernels().linear().linear(x, w, null, 1, y);
      assertThat(engine.read(y).toFloatVector()).containsExactly(15, 22);
    }
  }

  @ParameterizedTest
  @EnumSource(
      value = Precision.class,
      names = {"FP32", "BF16"})
  void nothingIsAllocatedOnceWarm(Precision precision) {
    try (CudaEngine engine = engine(precision, true);
        TrainingRun run = new TrainingRun(engine)) {
      run.steps(2);
      long before = controls.emulatedAllocations();
      long held = engine.bytesHeld();
      run.steps(3);
      assertThat(controls.emulatedAllocations()).isEqualTo(before);
      assertThat(engine.bytesHeld()).isEqualTo(held);
    }
  }

  @Test
  void memoryIsGivenBackOnClose() {
    long before = controls.emulatedBytes();
    try (CudaEngine engine = engine();
        TrainingRun run = new TrainingRun(engine)) {
      run.steps(1);
      assertThat(controls.emulatedBytes()).isGreaterThan(before);
    }
    assertThat(controls.emulatedBytes()).isEqualTo(before);
  }

  @Test
  void replayedGraphsComputeWhatSingleLaunchesDo() {
    List<List<Double>> losses = new ArrayList<>();
    for (boolean graphs : new boolean[] {false, true}) {
      try (CudaEngine engine = engine(Precision.FP32, graphs);
          TrainingRun run = new TrainingRun(engine)) {
        losses.add(run.steps(6));
        assertThat(engine.stream().graphLaunches() > 0).isEqualTo(graphs);
      }
    }
    assertThat(losses.getLast()).isEqualTo(losses.getFirst());
  }

  /** Streams that do everything as late, or in as wild an order, as events allow. */
  @ParameterizedTest
  @ValueSource(ints = {1, 2, 3, 4})
  void trainingIsTheSameInWhateverOrderStreamsWork(int order) {
    List<List<Double>> losses = new ArrayList<>();
    for (int streams : new int[] {0, order}) {
      controls.emulatedSetStreams(streams);
      try (CudaEngine engine = engine();
          TrainingRun run = new TrainingRun(engine)) {
        losses.add(run.steps(4));
      }
    }
    assertThat(losses.getLast()).isEqualTo(losses.getFirst());
  }

  /** Large uploads overtake the work before them, but neither that nor what follows sees it. */
  @ParameterizedTest
  @ValueSource(ints = {0, 1, 2, 3, 4, 5})
  void uploadsBesideWorkArriveInTheirTurn(int order) {
    controls.emulatedSetStreams(order);
    int n = 1 << 18; // 1 MB: the ring of 32 goes round
    try (CudaEngine engine = engine();
        Tensor batch = engine.allocate(n);
        Tensor sum = engine.allocate(n)) {
      ElementwiseKernels elementwise = engine.kernels().elementwise();
      elementwise.fill(sum, 0);
      for (int i = 1; i <= 40; i++) {
        engine.write(Nd4j.valueArrayOf(new long[] {n}, (float) i, DataType.FLOAT), batch);
        elementwise.scale(1, batch, sum, true);
        elementwise.scale(1, batch, sum, true);
        elementwise.fill(batch, Double.NaN);
        elementwise.scale(0, sum, batch, false);
      }
      INDArray result = engine.read(sum);
      assertThat(result.minNumber().doubleValue()).isEqualTo(40 * 41);
      assertThat(result.maxNumber().doubleValue()).isEqualTo(40 * 41);
      assertThat(engine.stream().graphLaunches()).isPositive();
    }
  }

  /** The emulation itself: what is not waited for has not happened. */
  @ParameterizedTest
  @ValueSource(booleans = {true, false})
  void aMissingWaitForAnotherStreamShows(boolean waits) {
    controls.emulatedSetStreams(1);
    try (CudaEngine engine = engine();
        Tensor target = engine.allocate(4);
        Arena arena = Arena.ofConfined()) {
      Cuda cuda = EmulatedDevice.cuda();
      DriverApi driver = cuda.driver;
      long other = cuda.longOf(out -> driver.cuStreamCreate(out, 1), "cuStreamCreate");
      long event = cuda.longOf(out -> driver.cuEventCreate(out, 2), "cuEventCreate");
      MemorySegment ones = arena.allocateFrom(ValueLayout.JAVA_FLOAT, 1, 1, 1, 1);
      long address = ((CudaTensor) target).address();
      assertThat(driver.cuMemcpyHtoDAsync_v2(address, ones.address(), 16, other)).isZero();
      assertThat(driver.cuEventRecord(event, other)).isZero();
      if (waits) {
        assertThat(driver.cuStreamWaitEvent(engine.stream().handle(), event, 0)).isZero();
      }
      double sum = engine.read(target).sumNumber().doubleValue();
      assertThat(sum).isEqualTo(Double.valueOf(waits ? 4 : Double.NaN)); // boxed: NaN equals NaN
      assertThat(driver.cuEventDestroy_v2(event)).isZero();
      assertThat(driver.cuStreamDestroy_v2(other)).isZero();
    }
  }

  private static final int BIAS = 4;
  private static final int SUMS_OF_B = 512;

  /** What cuBLASLt does beside a product, and the kernels in its place, on all kinds of rows. */
  @ParameterizedTest
  @EnumSource(
      value = Precision.class,
      names = {"FP32", "TF32", "BF16"})
  void epiloguesAndTheKernelsInTheirPlaceAgree(Precision precision) {
    for (int rows : new int[] {1, 7, 200}) {
      for (boolean add : new boolean[] {false, true}) {
        List<INDArray> fused = linear(precision, rows, add);
        controls.emulatedRefuseEpilogues(BIAS | SUMS_OF_B);
        List<INDArray> apart = linear(precision, rows, add);
        controls.emulatedRefuseEpilogues(0);
        for (int i = 0; i < fused.size(); i++) {
          // Sums of 200 numbers of order 1, which the product may round to its factors' type first.
          double bound =
              switch (precision) {
                case BF16 -> 0.5;
                case TF32 -> 0.06;
                default -> 1e-4;
              };
          double distance = fused.get(i).sub(apart.get(i)).amaxNumber().doubleValue();
          assertThat(distance <= bound).as("%s of %d: %s", i, rows, distance).isTrue();
        }
      }
    }
  }

  /** y, x̄ is left out, W̄ and b̄ of a linear map with 12 columns in and 20 out. */
  private static List<INDArray> linear(Precision precision, int rows, boolean add) {
    try (CudaEngine engine = engine(precision, true);
        Tensor x = engine.copyOf(random(1, rows, 12));
        Tensor w = engine.copyOf(random(2, 20, 12));
        Tensor b = engine.copyOf(random(3, 20));
        Tensor y = engine.allocate(rows, 20);
        Tensor gy = engine.copyOf(random(4, rows, 20));
        Tensor gw = engine.copyOf(random(5, 20, 12));
        Tensor gb = engine.copyOf(random(6, 20))) {
      LinearKernels linear = engine.kernels().linear();
      linear.linear(x, w, b, rows, y);
      linear.linearBackward(x, w, gy, null, new Cotangent(gw, add), new Cotangent(gb, add));
      return List.of(engine.read(y), engine.read(gw), engine.read(gb));
    }
  }

  @Test
  void biasGradientsCostNoPassOfTheirOwn() {
    try (CudaEngine engine = engine(Precision.FP32, false);
        Tensor x = engine.copyOf(random(1, 200, 12));
        Tensor w = engine.copyOf(random(2, 20, 12));
        Tensor gy = engine.copyOf(random(4, 200, 20));
        Tensor gw = engine.allocate(20, 12);
        Tensor gb = engine.allocate(20)) {
      for (boolean add : new boolean[] {false, true}) {
        long before = controls.emulatedLaunches();
        engine
            .kernels()
            .linear()
            .linearBackward(x, w, gy, null, new Cotangent(gw, add), new Cotangent(gb, add));
        // The product alone, and to add: 20 numbers to 20 others.
        assertThat(controls.emulatedLaunches() - before).isEqualTo(add ? 2 : 1);
      }
    }
  }

  @Test
  void outOfMemoryTellsWhatWasAskedAndWhatIsFree() {
    try (CudaEngine engine = engine();
        Tensor kept = engine.allocate(1 << 20)) {
      controls.emulatedSetMemoryLimit(100L << 20);
      assertThatThrownBy(() -> engine.allocate(50 << 20))
          .isInstanceOf(CudaException.class)
          .hasMessageMatching(
              "out of GPU memory: asked for 200 MiB, free are \\d+ MiB of 100 MiB, this engine"
                  + " holds 36 MiB; .*");
      try (Tensor fits = engine.allocate(10 << 20)) {
        engine.kernels().elementwise().fill(fits, 1);
        assertThat(engine.kernels().optimizer().squaredNorm(fits)).isEqualTo(10 << 20);
      }
      engine.kernels().elementwise().fill(kept, 0);
    }
  }

  @Test
  void memoryKeptForReuseIsGivenBackBeforeAnythingFails() {
    try (CudaEngine engine = engine()) {
      controls.emulatedSetMemoryLimit(100L << 20);
      engine.allocate(12 << 20).close();
      try (Tensor other = engine.allocate(13 << 20)) {
        engine.kernels().elementwise().fill(other, 2);
        assertThat(engine.kernels().optimizer().squaredNorm(other)).isEqualTo(4.0 * (13 << 20));
      }
    }
  }

  @Test
  void failedLaunchNamesKernelCodeAndText() {
    try (CudaEngine engine = engine(Precision.FP32, false);
        Tensor x = engine.allocate(1000)) {
      controls.emulatedFailLaunch(1, LAUNCH_FAILED);
      assertThatThrownBy(() -> engine.kernels().elementwise().fill(x, 1))
          .isInstanceOf(CudaException.class)
          .hasMessageStartingWith(
              "launch of kernel fill (grid 1 x 1 x 1, block 256, 0 bytes of shared memory) failed:"
                  + " CUDA_ERROR_LAUNCH_FAILED (719): unspecified launch failure");
      controls.emulatedReset();
    }
  }

  /** A fault is known long after the launch. */
  @Test
  void faultsOfKernelsTellHowToFindThem() {
    try (CudaEngine engine = engine();
        Tensor x = engine.allocate(1000)) {
      controls.emulatedSetStreams(1);
      controls.emulatedFailLaunch(1, ILLEGAL_ADDRESS);
      engine.kernels().elementwise().fill(x, 1);
      assertThatThrownBy(() -> engine.read(x))
          .isInstanceOf(CudaException.class)
          .hasMessage(
              "cuStreamSynchronize failed: CUDA_ERROR_ILLEGAL_ADDRESS (700): an illegal memory"
                  + " access was encountered; it or what was launched before it did that:"
                  + " -Dmeanflow.cuda.graphs=false and CUDA_LAUNCH_BLOCKING=1 in the environment"
                  + " name the kernel, and the process has to be started anew");
      controls.emulatedReset();
    }
  }

  @Test
  void failedProductTellsItsShape() {
    try (CudaEngine engine = engine(Precision.FP32, false);
        Tensor x = engine.copyOf(random(1, 3, 12));
        Tensor w = engine.copyOf(random(2, 20, 12));
        Tensor y = engine.allocate(3, 20)) {
      controls.emulatedFailLaunch(1, LAUNCH_FAILED);
      assertThatThrownBy(() -> engine.kernels().linear().linear(x, w, null, 0, y))
          .isInstanceOf(CudaException.class)
          .hasMessageStartingWith("cublasLtMatmul of Shape[m=20, n=3, k=12, ")
          .hasMessageEndingWith(" failed: CUBLAS_STATUS_EXECUTION_FAILED (13)");
      controls.emulatedReset();
    }
  }

  @Test
  void oldDriversAreNamed() {
    controls.emulatedSetDriverVersion(11040);
    assertThatThrownBy(() -> new Cuda(EmulatedDevice.reader(EmulatedDevice.settings())))
        .isInstanceOf(CudaException.class)
        .hasMessage("the driver knows CUDA 11.4; 11.8 or newer is needed: update the driver");
  }

  @Test
  void gpusThatAreNotThereAreRefused() {
    Map<String, String> settings = EmulatedDevice.settings();
    settings.put("meanflow.cuda.device", "1");
    assertThatThrownBy(() -> new Cuda(EmulatedDevice.reader(settings)))
        .isInstanceOf(CudaException.class)
        .hasMessage("GPU 1 was asked for, this machine has 1, counted from 0");
    settings.put("meanflow.cuda.device", "first");
    assertThatThrownBy(() -> new Cuda(EmulatedDevice.reader(settings)))
        .isInstanceOf(CudaException.class)
        .hasMessage("meanflow.cuda.device must be the number of a GPU, got 'first'");
  }

  @Test
  void headsWiderThanTheKernelsAreRefused() {
    try (CudaEngine engine = engine();
        Tensor qkv = engine.allocate(1, 2, 3 * 144);
        Tensor out = engine.allocate(1, 2, 144)) {
      assertThatThrownBy(
              () ->
                  engine
                      .kernels()
                      .attention()
                      .attention(1, Norm.none(), qkv, null, null, out, false))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("the cuda engine has attention heads of up to 128 columns, got 144");
    }
  }

  @Test
  void unsupportedArchitecturesAreNamed() {
    controls.emulatedSetCapability(7, 5);
    assertThatThrownBy(() -> new Cuda(EmulatedDevice.reader(EmulatedDevice.settings())))
        .isInstanceOf(CudaException.class)
        .hasMessage(
            "Emulated device has compute capability 7.5; the tensor-core instructions of attention"
                + " need 8.0 or newer");
    controls.emulatedSetCapability(19, 0);
    assertThatThrownBy(() -> new Cuda(EmulatedDevice.reader(EmulatedDevice.settings())))
        .isInstanceOf(CudaException.class)
        .hasMessageStartingWith(
            "Emulated device has compute capability 19.0, for which NVRTC 13.0 cannot compile (it"
                + " knows [")
        .hasMessageEndingWith("): a newer CUDA is needed");
    // Machine code of the same generation runs, too.
    controls.emulatedSetCapability(9, 5);
    assertThat(new Cuda(EmulatedDevice.reader(EmulatedDevice.settings())).architecture)
        .isEqualTo(90);
  }

  @Test
  void missingAndWrongLibrariesAreNamed(@TempDir Path folder) throws IOException {
    Map<String, String> settings = EmulatedDevice.settings();
    settings.put("meanflow.cuda.nvrtc", folder.resolve("none.so").toString());
    assertThatThrownBy(() -> new Cuda(EmulatedDevice.reader(settings)))
        .isInstanceOf(CudaException.class)
        .hasMessage("meanflow.cuda.nvrtc names no file: " + folder.resolve("none.so"));

    Path text = Files.writeString(folder.resolve("text.so"), "not a library");
    settings.put("meanflow.cuda.nvrtc", text.toString());
    assertThatThrownBy(() -> new Cuda(EmulatedDevice.reader(settings)))
        .isInstanceOf(CudaException.class)
        .hasMessage(
            "meanflow.cuda.nvrtc names no library of this platform: " + text + " does not load");

    Path other = Path.of(System.getProperty("java.home"), "lib", "libzip.so");
    settings.put("meanflow.cuda.driver", other.toString());
    assertThatThrownBy(() -> new Cuda(EmulatedDevice.reader(settings)))
        .isInstanceOf(CudaException.class)
        .hasMessageStartingWith(other + " is too old or not the library it should be: it has no cu")
        .hasMessageContaining("cuLaunchKernel");
  }

  @Test
  void damagedCompiledKernelsAreMadeAnew(@TempDir Path folder) throws IOException {
    Map<String, String> settings = EmulatedDevice.settings();
    settings.put("meanflow.cuda.cache", folder.toString());
    fillOnce(settings);
    Path compiled;
    try (Stream<Path> files = Files.list(folder)) {
      compiled = files.findFirst().orElseThrow();
    }
    assertThat(compiled.getFileName().toString()).matches("elementwise-[0-9a-f]{32}\\.cubin");
    byte[] good = Files.readAllBytes(compiled);
    Files.writeString(compiled, "damaged");
    fillOnce(settings);
    assertThat(compiled).hasBinaryContent(good);
    fillOnce(settings);
  }

  private static void fillOnce(Map<String, String> settings) {
    try (CudaEngine engine =
            new CudaEngine(new Cuda(EmulatedDevice.reader(settings)), Precision.FP32, false);
        Tensor x = engine.allocate(8)) {
      engine.kernels().elementwise().fill(x, 3);
      assertThat(engine.read(x).sumNumber().doubleValue()).isEqualTo(24);
    }
  }
}
