package org.meanflow.nn.engine.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * The kernels of a GPU, compiled and loaded when they are first asked for. They stay loaded, for
 * all engines of this process.
 */
final class KernelSet {
  private static final int MAX_DYNAMIC_SHARED_SIZE_BYTES = 8;

  private final Cuda cuda;
  private final KernelCompiler compiler;
  private final Map<String, Long> modules = new HashMap<>();
  private final Map<String, Kernel> kernels = new HashMap<>();

  KernelSet(Cuda cuda, KernelCompiler compiler) {
    this.cuda = cuda;
    this.compiler = compiler;
  }

  /**
   * A kernel.
   *
   * @param source its file, without .cu
   * @param name its function
   */
  synchronized Kernel get(String source, String name) {
    Kernel known = kernels.get(name);
    if (known != null) {
      return known;
    }
    Kernel kernel = function(module(source, List.of()), name);
    kernels.put(name, kernel);
    return kernel;
  }

  /** The driver's handle of a kernel of a module. */
  Kernel function(long module, String name) {
    cuda.makeCurrent();
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment text = arena.allocateFrom(name);
      return new Kernel(
          name,
          cuda.longOf(
              out -> cuda.driver.cuModuleGetFunction(out, module, text.address()),
              "cuModuleGetFunction of " + name));
    }
  }

  /** A source compiled with these defines, loaded. */
  synchronized long module(String source, List<String> defines) {
    cuda.makeCurrent();
    String key = source + " " + defines;
    Long known = modules.get(key);
    if (known != null) {
      return known;
    }
    String file = source + ".cu";
    byte[] image = compiler.compile(file, defines);
    long module;
    try {
      module = load(image, file);
    } catch (CudaException e) {
      // What was kept on disk may be damaged.
      compiler.forget(file);
      module = load(compiler.compile(file, defines), file);
    }
    modules.put(key, module);
    return module;
  }

  private long load(byte[] image, String file) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment copy = arena.allocate(image.length + 1L, 16);
      MemorySegment.copy(image, 0, copy, ValueLayout.JAVA_BYTE, 0, image.length);
      return cuda.longOf(
          out -> cuda.driver.cuModuleLoadData(out, copy.address()), "cuModuleLoadData of " + file);
    }
  }

  /** A kernel that takes so much dynamic shared memory, more than 48 KiB of which are asked for. */
  Kernel function(long module, String name, int sharedBytes) {
    Kernel kernel = function(module, name);
    if (sharedBytes > 48 << 10) {
      cuda.check(
          cuda.driver.cuFuncSetAttribute(
              kernel.function(), MAX_DYNAMIC_SHARED_SIZE_BYTES, sharedBytes),
          "cuFuncSetAttribute of " + name);
    }
    return kernel;
  }

  /** Integers in the module's memory. */
  int[] global(long module, String name, int count) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment text = arena.allocateFrom(name);
      MemorySegment size = arena.allocate(ValueLayout.JAVA_LONG);
      long address =
          cuda.longOf(
              out -> cuda.driver.cuModuleGetGlobal_v2(out, size.address(), module, text.address()),
              "cuModuleGetGlobal of " + name);
      MemorySegment numbers = arena.allocate(ValueLayout.JAVA_INT, count);
      cuda.check(
          cuda.driver.cuMemcpyDtoH_v2(numbers.address(), address, 4L * count), "cuMemcpyDtoH");
      return numbers.toArray(ValueLayout.JAVA_INT);
    }
  }
}
