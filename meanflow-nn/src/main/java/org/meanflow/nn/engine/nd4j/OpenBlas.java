package org.meanflow.nn.engine.nd4j;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.util.Map;
import java.util.Optional;
import org.bytedeco.javacpp.Loader;

/** Asks the OpenBLAS that ND4J has loaded which kernels it chose for this CPU. */
final class OpenBlas {
  private static final int LONGEST_NAME = 64;

  private OpenBlas() {}

  /**
   * The name of the kernel set, such as {@code Zen} or {@code SkylakeX}; empty if ND4J runs on
   * another BLAS or its library cannot be asked.
   */
  static Optional<String> kernelSet() {
    return Loader.getLoadedLibraries().entrySet().stream()
        .filter(library -> library.getKey().startsWith("openblas@"))
        .map(Map.Entry::getValue)
        .findFirst()
        .flatMap(OpenBlas::coreName);
  }

  private static Optional<String> coreName(String library) {
    try (Arena arena = Arena.ofConfined()) {
      Linker linker = Linker.nativeLinker();
      return SymbolLookup.libraryLookup(library, arena)
          .find("openblas_get_corename")
          .map(
              symbol -> {
                try {
                  MemorySegment name =
                      (MemorySegment)
                          linker
                              .downcallHandle(symbol, FunctionDescriptor.of(ValueLayout.ADDRESS))
                              .invokeExact();
                  return name.reinterpret(LONGEST_NAME).getString(0);
                } catch (Throwable e) {
                  throw new IllegalStateException("openblas_get_corename failed", e);
                }
              });
    } catch (IllegalArgumentException e) {
      return Optional.empty(); // not a library that can be opened
    }
  }
}
