package org.meanflow.nn.engine.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.SymbolLookup;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.function.UnaryOperator;
import org.jspecify.annotations.Nullable;

/** The {@linkplain EmulatedCuda emulated device} as the GPU of engines. */
public final class EmulatedDevice {
  private static @Nullable Cuda shared;

  private EmulatedDevice() {}

  /**
   * What the emulated device has and a real one has not. The first three and the last return
   * something.
   */
  interface Controls {
    long emulatedAllocations();

    long emulatedLaunches();

    long emulatedBytes();

    int emulatedSetMemoryLimit(long bytes);

    int emulatedReset();

    int emulatedFailLaunch(int countdown, int code);

    int emulatedSetCapability(int major, int minor);

    int emulatedSetDriverVersion(int version);

    int emulatedSetDevices(int count);

    int emulatedRefuseEpilogues(int epilogues);

    int emulatedSetStreams(int order);
  }

  /** Makes it the GPU of all engines called cuda from here on; skips where it cannot be built. */
  public static void use() {
    settings().forEach(System::setProperty);
  }

  /** Makes several of it the GPUs; {@link #release} when done. */
  public static void use(int count) {
    use();
    controls().emulatedSetDevices(count);
  }

  /** Undoes {@link #use()}. */
  public static void release() {
    settings().keySet().forEach(System::clearProperty);
    controls().emulatedReset();
  }

  /** The settings that make it the GPU. */
  static Map<String, String> settings() {
    Path library = EmulatedCuda.library();
    String file = library.toString();
    return new HashMap<>(
        Map.of(
            "meanflow.cuda.driver", file,
            "meanflow.cuda.nvrtc", file,
            "meanflow.cuda.cublasLt", file,
            "meanflow.cuda.nccl", file,
            "meanflow.cuda.cache", library.resolveSibling("cubin").toString()));
  }

  /** The device under its own settings. */
  static synchronized Cuda cuda() {
    Cuda existing = shared;
    if (existing == null) {
      existing = new Cuda(reader(settings()));
      shared = existing;
    }
    return existing;
  }

  static UnaryOperator<@Nullable String> reader(Map<String, String> settings) {
    return settings::get;
  }

  static Controls controls() {
    SymbolLookup library = SymbolLookup.libraryLookup(EmulatedCuda.library(), Arena.global());
    return NativeApi.bind(Controls.class, library, "the emulated device");
  }
}
