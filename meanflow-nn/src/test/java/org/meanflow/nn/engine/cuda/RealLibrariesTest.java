package org.meanflow.nn.engine.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.abort;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.meanflow.nn.engine.cuda.LibraryFinder.Found;
import org.meanflow.nn.engine.cuda.LibraryFinder.Library;

/** What NVIDIA's own NVRTC and cuBLASLt do without a GPU, where they are installed. */
class RealLibrariesTest {
  private static Found find(Library library) {
    try {
      return new LibraryFinder(LibraryFinder::setting).find(library, 13);
    } catch (CudaException e) {
      return abort(e.getMessage());
    }
  }

  static Stream<Arguments> sources() {
    return Stream.of("elementwise", "norm", "modulation", "embedding", "optimizer", "attention")
        .flatMap(source -> Stream.of(80, 90, 100).map(a -> Arguments.of(source, a)));
  }

  @ParameterizedTest
  @MethodSource("sources")
  void everySourceCompiles(String source, int architecture) {
    Nvrtc nvrtc = new Nvrtc(find(Library.NVRTC));
    if (!nvrtc.architectures().contains(architecture)) {
      abort("NVRTC " + nvrtc.version() + " does not know sm_" + architecture);
    }
    List<String> defines =
        source.equals("attention") ? List.of("-DHEAD_DIM=64", "-DATTENTION=2") : List.of();
    byte[] image = new KernelCompiler(nvrtc, architecture, null).compile(source + ".cu", defines);
    assertThat(image).startsWith(0x7f, 'E', 'L', 'F');
  }

  @Test
  void anErrorInASourceIsShownWithItsLine() {
    Nvrtc nvrtc = new Nvrtc(find(Library.NVRTC));
    String option = "--gpu-architecture=sm_" + nvrtc.architectures().getLast();
    assertThatThrownBy(
            () -> nvrtc.compile("wrong.cu", "\nint x = y;\n", "none.cuh", "", List.of(option)))
        .isInstanceOf(CudaException.class)
        .hasMessageContaining("wrong.cu(2): error: identifier \"y\" is undefined");
  }

  @Test
  void descriptionsOfProductsAreAccepted() {
    Found library = find(Library.CUBLAS_LT);
    CublasLtApi lt = NativeApi.bind(CublasLtApi.class, library.symbols(), library.where());
    assertThat(lt.cublasLtGetVersion()).isGreaterThan(110_000);
    for (Products.Epilogue epilogue : Products.Epilogue.values()) {
      boolean compact = epilogue == Products.Epilogue.BIAS;
      Products.Shape shape =
          new Products.Shape(
              48,
              64,
              32,
              true,
              false,
              true,
              compact,
              epilogue,
              16 | 64 << 10 | 256 << 20 | 16L << 30 | 16L << 40);
      for (int computeType : new int[] {68, 77}) {
        new Products.Description(lt, computeType, shape).close();
      }
    }
  }

  @Test
  void ncclHasWhatIsCalled() {
    Found library = find(Library.NCCL);
    NcclApi nccl = NativeApi.bind(NcclApi.class, library.symbols(), library.where());
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment version = arena.allocate(ValueLayout.JAVA_INT);
      assertThat(nccl.ncclGetVersion(version.address())).isZero();
      // Averages came with 2.10.
      assertThat(version.get(ValueLayout.JAVA_INT, 0)).isGreaterThan(21000);
    }
    assertThat(Cuda.string(nccl.ncclGetErrorString(4))).containsIgnoringCase("argument");
  }
}
