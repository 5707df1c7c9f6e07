package org.meanflow.nn.engine.cuda;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
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
import java.util.function.UnaryOperator;
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

  private final Nvrtc nvrtc;
  private final int architecture;
  private final @Nullable Path cache;

  /**
   * A compiler.
   *
   * @param architecture as 90 for sm_90
   * @param cache folder of the results; {@code null} for none
   */
  KernelCompiler(Nvrtc nvrtc, int architecture, @Nullable Path cache) {
    this.nvrtc = nvrtc;
    this.architecture = architecture;
    this.cache = cache;
  }

  /** The folder of a user's caches, or what {@code meanflow.cuda.cache} says. */
  static @Nullable Path cacheFolder(UnaryOperator<@Nullable String> settings) {
    String setting = settings.apply("meanflow.cuda.cache");
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
    options.add("--gpu-architecture=sm_" + architecture);
    options.add("--std=c++17");
    options.add("--device-as-default-execution-space"); // lambdas in kernels have no annotation
    options.addAll(defines);
    Path file =
        cache == null
            ? null
            : cache.resolve(
                source.replace(".cu", "-")
                    + hash(header, text, String.join(" ", options), nvrtc.version())
                    + ".cubin");
    if (file != null && Files.isRegularFile(file)) {
      try {
        return Files.readAllBytes(file);
      } catch (IOException e) {
        log.debug("{} cannot be read", file, e);
      }
    }
    long start = System.nanoTime();
    byte[] image = nvrtc.compile(source, text, HEADER, header, options);
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
