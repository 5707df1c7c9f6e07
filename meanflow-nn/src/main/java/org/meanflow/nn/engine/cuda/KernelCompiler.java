package org.meanflow.nn.engine.cuda;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Locale;
import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Compiles the CUDA C sources among the resources to machine code of one architecture with NVRTC,
 * and keeps the results on disk, by (sources, options, NVRTC version).
 */
final class KernelCompiler {
  private static final Logger log = LoggerFactory.getLogger(KernelCompiler.class);
  private static final String HEADER = "common.cuh";

  private final Cuda cuda;
  private final @Nullable Path cache;

  /**
   * A compiler.
   *
   * @param cache folder of the results; {@code null} for none
   */
  KernelCompiler(Cuda cuda, @Nullable Path cache) {
    this.cuda = cuda;
    this.cache = cache;
  }

  /** The folder of a user's caches, or what {@code meanflow.cuda.cache} says. */
  static @Nullable Path defaultCache() {
    String setting = LibraryFinder.setting("meanflow.cuda.cache");
    if (setting != null) {
      return setting.isBlank() ? null : Path.of(setting);
    }
    String base = System.getenv("XDG_CACHE_HOME");
    if (base == null || base.isBlank()) {
      base = System.getenv("LOCALAPPDATA");
    }
    Path folder =
        base == null || base.isBlank()
            ? Path.of(System.getProperty("user.home", "."), ".cache")
            : Path.of(base);
    return folder.resolve("meanflow").resolve("cuda");
  }

  /**
   * Machine code of a source.
   *
   * @param source name of a resource beside this class, such as norm.cu
   * @param defines options such as {@code -DHEAD_DIM=64}
   */
  byte[] compile(String source, List<String> defines) {
    String header = resource(HEADER);
    String text = resource(source);
    List<String> options = new ArrayList<>();
    options.add("--gpu-architecture=sm_" + cuda.architecture);
    options.add("--std=c++17");
    options.addAll(defines);
    Path file =
        cache == null
            ? null
            : cache.resolve(
                source.replace(".cu", "-")
                    + hash(header, text, String.join(" ", options), cuda.nvrtcVersion)
                    + ".cubin");
    if (file != null && Files.isRegularFile(file)) {
      try {
        return Files.readAllBytes(file);
      } catch (IOException e) {
        log.debug("{} cannot be read", file, e);
      }
    }
    long start = System.nanoTime();
    byte[] image = compile(source, text, header, options);
    log.debug(
        "{} {} compiled in {} ms",
        source,
        options,
        String.format(Locale.ROOT, "%.0f", (System.nanoTime() - start) / 1e6));
    if (file != null) {
      store(file, image);
    }
    return image;
  }

  /** Forgets a result that the driver does not load. */
  void forget(String source) {
    if (cache == null || !Files.isDirectory(cache)) {
      return;
    }
    try (var files = Files.newDirectoryStream(cache, source.replace(".cu", "-*.cubin"))) {
      for (Path file : files) {
        Files.deleteIfExists(file);
      }
    } catch (IOException e) {
      log.debug("{} cannot be cleaned", cache, e);
    }
  }

  private static void store(Path file, byte[] image) {
    Path folder = Objects.requireNonNull(file.getParent());
    try {
      Files.createDirectories(folder);
      Path temporary = Files.createTempFile(folder, "compiling", ".tmp");
      try {
        Files.write(temporary, image);
        Files.move(
            temporary, file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
      } finally {
        Files.deleteIfExists(temporary);
      }
    } catch (IOException e) {
      log.warn(
          "compiled kernels cannot be kept in {} for the next start: {}", folder, e.toString());
    }
  }

  private byte[] compile(String name, String text, String header, List<String> options) {
    NvrtcApi nvrtc = cuda.nvrtc;
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment headers = strings(arena, List.of(header));
      MemorySegment headerNames = strings(arena, List.of(HEADER));
      MemorySegment handle = arena.allocate(ValueLayout.JAVA_LONG);
      cuda.checkNvrtc(
          nvrtc.nvrtcCreateProgram(
              handle.address(),
              arena.allocateFrom(text).address(),
              arena.allocateFrom(name).address(),
              1,
              headers.address(),
              headerNames.address()),
          "nvrtcCreateProgram");
      long program = handle.get(ValueLayout.JAVA_LONG, 0);
      try {
        int result =
            nvrtc.nvrtcCompileProgram(program, options.size(), strings(arena, options).address());
        if (result != 0) {
          MemorySegment size = arena.allocate(ValueLayout.JAVA_LONG);
          cuda.checkNvrtc(
              nvrtc.nvrtcGetProgramLogSize(program, size.address()), "nvrtcGetProgramLogSize");
          MemorySegment compilerLog =
              arena.allocate(Math.max(1, size.get(ValueLayout.JAVA_LONG, 0)));
          cuda.checkNvrtc(
              nvrtc.nvrtcGetProgramLog(program, compilerLog.address()), "nvrtcGetProgramLog");
          throw new CudaException(
              "NVRTC %s does not compile %s with %s: %s%n%s"
                  .formatted(
                      cuda.nvrtcVersion,
                      name,
                      options,
                      Cuda.string(nvrtc.nvrtcGetErrorString(result)),
                      compilerLog.getString(0)));
        }
        MemorySegment size = arena.allocate(ValueLayout.JAVA_LONG);
        cuda.checkNvrtc(nvrtc.nvrtcGetCUBINSize(program, size.address()), "nvrtcGetCUBINSize");
        MemorySegment image = arena.allocate(size.get(ValueLayout.JAVA_LONG, 0));
        cuda.checkNvrtc(nvrtc.nvrtcGetCUBIN(program, image.address()), "nvrtcGetCUBIN");
        return image.toArray(ValueLayout.JAVA_BYTE);
      } finally {
        cuda.checkNvrtc(nvrtc.nvrtcDestroyProgram(handle.address()), "nvrtcDestroyProgram");
      }
    }
  }

  private static MemorySegment strings(Arena arena, List<String> strings) {
    MemorySegment pointers = arena.allocate(ValueLayout.JAVA_LONG, Math.max(1, strings.size()));
    for (int i = 0; i < strings.size(); i++) {
      pointers.setAtIndex(ValueLayout.JAVA_LONG, i, arena.allocateFrom(strings.get(i)).address());
    }
    return pointers;
  }

  private static String resource(String name) {
    try (InputStream in = KernelCompiler.class.getResourceAsStream(name)) {
      if (in == null) {
        throw new IllegalStateException("resource " + name + " is missing");
      }
      return new String(in.readAllBytes(), StandardCharsets.UTF_8);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static String hash(String... parts) {
    try {
      MessageDigest digest = MessageDigest.getInstance("SHA-256");
      for (String part : parts) {
        digest.update(part.getBytes(StandardCharsets.UTF_8));
        digest.update((byte) 0);
      }
      return HexFormat.of().formatHex(digest.digest(), 0, 16);
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException("every JDK has SHA-256", e);
    }
  }
}
