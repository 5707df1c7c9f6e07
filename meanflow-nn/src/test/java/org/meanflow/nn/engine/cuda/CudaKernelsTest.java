package org.meanflow.nn.engine.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Every kernel against plain loops in double precision, on the emulated device; its program, {@code
 * kernels_test.cpp}, does the same with a real driver. Threads run in an order that is not theirs,
 * so that a missing barrier shows.
 */
@Tag("cuda-emulated")
class CudaKernelsTest {
  @ParameterizedTest
  @ValueSource(
      strings = {"attention", "elementwise", "embedding", "modulation", "norm", "optimizer"})
  void agreeWithPlainLoops(String family) {
    run("1", family);
    run("7", family);
  }

  @ParameterizedTest
  @ValueSource(strings = {"device", "products"})
  void theEmulatedDeviceBehavesLikeOne(String part) {
    run("0", part);
  }

  private static void run(String order, String family) {
    Path library = EmulatedCuda.library();
    EmulatedCuda.Output output =
        EmulatedCuda.output(
            List.of(
                "env",
                "EMULATED_CUDA_ORDER=" + order,
                EmulatedCuda.program("kernels_test").toString(),
                library.toString(),
                library.toString(),
                EmulatedCuda.kernels().toString(),
                family));
    assertThat(output.status()).as(output.text()).isZero();
    // A program that compared nothing would end well, too.
    assertThat(output.text()).matches("(?s).*" + family + ": [1-9]\\d* comparisons, 0 failed\\s*");
  }
}
