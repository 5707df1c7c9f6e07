package org.meanflow.nn.engine.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;

/** NVIDIA's run-time compiler; it needs no GPU. */
final class Nvrtc {
  private final NvrtcApi api;
  private final String version;
  private final List<Integer> architectures = new ArrayList<>();

  /**
   * The compiler of a library.
   *
   * @throws CudaException if it is not that
   */
  Nvrtc(LibraryFinder.Found library) {
    api = NativeApi.bind(NvrtcApi.class, library.symbols(), library.where());
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment numbers = arena.allocate(ValueLayout.JAVA_INT, 2);
      check(api.nvrtcVersion(numbers.address(), numbers.address() + 4), "nvrtcVersion");
      version =
          numbers.getAtIndex(ValueLayout.JAVA_INT, 0)
              + "."
              + numbers.getAtIndex(ValueLayout.JAVA_INT, 1);
      check(api.nvrtcGetNumSupportedArchs(numbers.address()), "nvrtcGetNumSupportedArchs");
      int count = numbers.get(ValueLayout.JAVA_INT, 0);
      MemorySegment supported = arena.allocate(ValueLayout.JAVA_INT, Math.max(count, 1));
      check(api.nvrtcGetSupportedArchs(supported.address()), "nvrtcGetSupportedArchs");
      for (int i = 0; i < count; i++) {
        architectures.add(supported.getAtIndex(ValueLayout.JAVA_INT, i));
      }
    }
  }

  /** {@return the version, as in 13.0} */
  String version() {
    return version;
  }

  /** {@return the architectures that it compiles for, as 90 for sm_90} */
  List<Integer> architectures() {
    return architectures;
  }

  private void check(int result, String call) {
    if (result != 0) {
      throw new CudaException(
          "%s failed: %s (%d)"
              .formatted(call, Cuda.string(api.nvrtcGetErrorString(result)), result));
    }
  }

  /**
   * Compiles to machine code.
   *
   * @param name of the source, for messages
   * @param text the source
   * @param headerName of the one file that it includes
   * @param header that file
   * @param options with the architecture
   * @throws CudaException with the compiler's messages if there is an error in the source
   */
  byte[] compile(String name, String text, String headerName, String header, List<String> options) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment handle = arena.allocate(ValueLayout.JAVA_LONG);
      check(
          api.nvrtcCreateProgram(
              handle.address(),
              arena.allocateFrom(text).address(),
              arena.allocateFrom(name).address(),
              1,
              strings(arena, List.of(header)),
              strings(arena, List.of(headerName))),
          "nvrtcCreateProgram");
      long program = handle.get(ValueLayout.JAVA_LONG, 0);
      try {
        MemorySegment size = arena.allocate(ValueLayout.JAVA_LONG);
        int result = api.nvrtcCompileProgram(program, options.size(), strings(arena, options));
        if (result != 0) {
          check(api.nvrtcGetProgramLogSize(program, size.address()), "nvrtcGetProgramLogSize");
          MemorySegment messages = arena.allocate(Math.max(1, size.get(ValueLayout.JAVA_LONG, 0)));
          check(api.nvrtcGetProgramLog(program, messages.address()), "nvrtcGetProgramLog");
          throw new CudaException(
              "NVRTC %s does not compile %s with %s: %s%n%s"
                  .formatted(
                      version,
                      name,
                      options,
                      Cuda.string(api.nvrtcGetErrorString(result)),
                      messages.getString(0)));
        }
        check(api.nvrtcGetCUBINSize(program, size.address()), "nvrtcGetCUBINSize");
        MemorySegment image = arena.allocate(size.get(ValueLayout.JAVA_LONG, 0));
        check(api.nvrtcGetCUBIN(program, image.address()), "nvrtcGetCUBIN");
        return image.toArray(ValueLayout.JAVA_BYTE);
      } finally {
        check(api.nvrtcDestroyProgram(handle.address()), "nvrtcDestroyProgram");
      }
    }
  }

  private static long strings(Arena arena, List<String> strings) {
    MemorySegment pointers = arena.allocate(ValueLayout.JAVA_LONG, Math.max(1, strings.size()));
    for (int i = 0; i < strings.size(); i++) {
      pointers.setAtIndex(ValueLayout.JAVA_LONG, i, arena.allocateFrom(strings.get(i)).address());
    }
    return pointers.address();
  }
}
