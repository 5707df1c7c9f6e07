package org.meanflow.nn.engine.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Set;
import java.util.function.UnaryOperator;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.cuda.LibraryFinder.Found;
import org.meanflow.nn.engine.cuda.LibraryFinder.Library;

/**
 * The CUDA driver, NVRTC, cuBLASLt and one GPU, ready to be used: its primary context is held from
 * the first use on.
 */
final class Cuda {
  /** CUDA 11.8, the first that knows compute capability 9.0. */
  private static final int OLDEST_DRIVER = 11080;

  /** The lowest compute capability with the instructions that the kernels use. */
  private static final int OLDEST_CAPABILITY = 80;

  private static final int MULTIPROCESSOR_COUNT = 16;
  private static final int CAPABILITY_MAJOR = 75;
  private static final int CAPABILITY_MINOR = 76;
  private static final int OUT_OF_MEMORY = 2;

  /** What a kernel ends with: known when it runs, long after its launch; nothing works after it. */
  private static final Set<Integer> KERNEL_FAULTS = Set.of(700, 702, 714, 715, 716, 717, 718, 719);

  private static final ThreadLocal<@Nullable Cuda> CURRENT = new ThreadLocal<>();

  final DriverApi driver;
  final Nvrtc nvrtc;
  final CublasLtApi cublasLt;
  final int device;

  /** The GPU's place among those of this machine. */
  final int ordinal;

  /** As in sm_90: what kernels are compiled for. */
  final int architecture;

  final int multiprocessors;
  final KernelSet kernels;
  private final long context;
  private final String description;

  /**
   * Loads the libraries and opens a GPU.
   *
   * @param settings value of a setting such as {@code meanflow.cuda.driver}, or null
   * @throws CudaException with the reason if there is no GPU to use
   */
  Cuda(UnaryOperator<@Nullable String> settings) {
    LibraryFinder finder = new LibraryFinder(settings);
    Found driverLibrary = finder.find(Library.DRIVER, Integer.MAX_VALUE);
    driver = NativeApi.bind(DriverApi.class, driverLibrary.symbols(), driverLibrary.where());
    check(driver.cuInit(0), "cuInit");
    int version = intOf(out -> driver.cuDriverGetVersion(out), "cuDriverGetVersion");
    if (version < OLDEST_DRIVER) {
      throw new CudaException(
          "the driver knows CUDA %s; %s or newer is needed: update the driver"
              .formatted(dotted(version), dotted(OLDEST_DRIVER)));
    }
    ordinal = ordinal(settings.apply("meanflow.cuda.device"));
    int count = intOf(out -> driver.cuDeviceGetCount(out), "cuDeviceGetCount");
    if (ordinal >= count) {
      throw new CudaException(
          "GPU %d was asked for, this machine has %d, counted from 0".formatted(ordinal, count));
    }
    device = intOf(out -> driver.cuDeviceGet(out, ordinal), "cuDeviceGet");
    int capability = attribute(CAPABILITY_MAJOR) * 10 + attribute(CAPABILITY_MINOR);
    if (capability < OLDEST_CAPABILITY) {
      throw new CudaException(
          "%s has compute capability %s; the tensor-core instructions of attention need %s or newer"
              .formatted(name(), capability(capability), capability(OLDEST_CAPABILITY)));
    }
    multiprocessors = attribute(MULTIPROCESSOR_COUNT);
    Found nvrtcLibrary = finder.find(Library.NVRTC, version / 1000);
    nvrtc = new Nvrtc(nvrtcLibrary);
    architecture = architecture(capability);
    Found cublasLibrary = finder.find(Library.CUBLAS_LT, version / 1000);
    cublasLt = NativeApi.bind(CublasLtApi.class, cublasLibrary.symbols(), cublasLibrary.where());
    kernels =
        new KernelSet(
            this, new KernelCompiler(nvrtc, architecture, KernelCompiler.cacheFolder(settings)));
    long cublasVersion = cublasLt.cublasLtGetVersion();
    context =
        longOf(out -> driver.cuDevicePrimaryCtxRetain(out, device), "cuDevicePrimaryCtxRetain");
    description =
        "%s (compute capability %s, %d multiprocessors, %d MiB), driver for CUDA %s (%s), NVRTC %s (%s), cuBLASLt %d (%s)"
            .formatted(
                name(),
                capability(capability),
                multiprocessors,
                longOf(out -> driver.cuDeviceTotalMem_v2(out, device), "cuDeviceTotalMem") >> 20,
                dotted(version),
                driverLibrary.where(),
                nvrtc.version(),
                nvrtcLibrary.where(),
                cublasVersion,
                cublasLibrary.where());
  }

  private static int ordinal(@Nullable String setting) {
    if (setting == null) {
      return 0;
    }
    try {
      return Integer.parseUnsignedInt(setting.strip());
    } catch (NumberFormatException e) {
      throw new CudaException(
          "meanflow.cuda.device must be the number of a GPU, got '" + setting + "'", e);
    }
  }

  /** {@return GPU and libraries, for people} */
  String description() {
    return description;
  }

  /** Makes this GPU the one that calls of this thread go to. */
  @SuppressWarnings("ReferenceEquality")
  void makeCurrent() {
    if (CURRENT.get() != this) {
      check(driver.cuCtxSetCurrent(context), "cuCtxSetCurrent");
      CURRENT.set(this);
    }
  }

  /** Throws what a call of the driver returned, unless that is success. */
  void check(int result, String call) {
    if (result != 0) {
      throw failure(result, call);
    }
  }

  CudaException failure(int result, String call) {
    return new CudaException(
        "%s failed: %s (%d): %s%s"
            .formatted(
                call,
                text(driver::cuGetErrorName, result),
                result,
                text(driver::cuGetErrorString, result),
                KERNEL_FAULTS.contains(result)
                    ? "; it or what was launched before it did that: -Dmeanflow.cuda.graphs=false"
                        + " and CUDA_LAUNCH_BLOCKING=1 in the environment name the kernel, and"
                        + " the process has to be started anew"
                    : ""));
  }

  /**
   * Allocates device memory.
   *
   * @return its address, or 0 if there is not enough
   */
  long tryAllocate(long bytes) {
    makeCurrent();
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment address = arena.allocate(ValueLayout.JAVA_LONG);
      int result = driver.cuMemAlloc_v2(address.address(), bytes);
      if (result == OUT_OF_MEMORY) {
        return 0;
      }
      check(result, "cuMemAlloc");
      return address.get(ValueLayout.JAVA_LONG, 0);
    }
  }

  /** What to say where memory does not suffice even with nothing kept for reuse. */
  CudaException outOfMemory(long bytes, long held) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment amounts = arena.allocate(ValueLayout.JAVA_LONG, 2);
      check(driver.cuMemGetInfo_v2(amounts.address(), amounts.address() + 8), "cuMemGetInfo");
      return new CudaException(
          "out of GPU memory: asked for %s, free are %s of %s, this engine holds %s; a smaller batch needs less"
              .formatted(
                  mebibytes(bytes),
                  mebibytes(amounts.getAtIndex(ValueLayout.JAVA_LONG, 0)),
                  mebibytes(amounts.getAtIndex(ValueLayout.JAVA_LONG, 1)),
                  mebibytes(held)));
    }
  }

  private static String mebibytes(long bytes) {
    return bytes < 1 << 20 ? bytes + " bytes" : (bytes >> 20) + " MiB";
  }

  /** A call that writes a number to an address. */
  @FunctionalInterface
  interface Query {
    int call(long out);
  }

  long longOf(Query query, String call) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment out = arena.allocate(ValueLayout.JAVA_LONG);
      check(query.call(out.address()), call);
      return out.get(ValueLayout.JAVA_LONG, 0);
    }
  }

  private int intOf(Query query, String call) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment out = arena.allocate(ValueLayout.JAVA_INT);
      check(query.call(out.address()), call);
      return out.get(ValueLayout.JAVA_INT, 0);
    }
  }

  private int attribute(int attribute) {
    return intOf(
        out -> driver.cuDeviceGetAttribute(out, attribute, device), "cuDeviceGetAttribute");
  }

  private String name() {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment name = arena.allocate(256);
      check(driver.cuDeviceGetName(name.address(), 256, device), "cuDeviceGetName");
      return name.getString(0);
    }
  }

  @FunctionalInterface
  private interface Text {
    int call(int error, long out);
  }

  private static String text(Text text, int error) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment out = arena.allocate(ValueLayout.JAVA_LONG);
      return text.call(error, out.address()) == 0
          ? string(out.get(ValueLayout.JAVA_LONG, 0))
          : "unknown error";
    }
  }

  /** A C string. */
  static String string(long pointer) {
    return pointer == 0
        ? "no text"
        : MemorySegment.ofAddress(pointer).reinterpret(Long.MAX_VALUE).getString(0);
  }

  /**
   * The architecture to compile for: the GPU's, or the newest older one of the same generation,
   * whose machine code it runs, too.
   */
  private int architecture(int capability) {
    return nvrtc.architectures().stream()
        .filter(a -> a / 10 == capability / 10 && a <= capability)
        .max(Integer::compare)
        .orElseThrow(
            () ->
                new CudaException(
                    "%s has compute capability %s, for which NVRTC %s cannot compile (it knows %s): a newer CUDA is needed"
                        .formatted(
                            name(),
                            capability(capability),
                            nvrtc.version(),
                            nvrtc.architectures())));
  }

  private static String dotted(int version) {
    return version / 1000 + "." + version % 1000 / 10;
  }

  private static String capability(int capability) {
    return capability / 10 + "." + capability % 10;
  }
}
