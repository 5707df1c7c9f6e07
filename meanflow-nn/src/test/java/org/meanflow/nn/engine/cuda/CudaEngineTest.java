package org.meanflow.nn.engine.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
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
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
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
          .hasMessage(
              "launch of kernel fill (grid 1 x 1 x 1, block 256, 0 bytes of shared memory) failed:"
                  + " CUDA_ERROR_LAUNCH_FAILED (719): unspecified launch failure");
      controls.emulatedReset();
    }
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
        .hasMessage("Emulated device has compute capability 7.5; 8.0 or newer is needed");
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
