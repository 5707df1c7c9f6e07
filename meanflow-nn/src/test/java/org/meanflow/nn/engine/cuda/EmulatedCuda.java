package org.meanflow.nn.engine.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;

/**
 * The emulated device of {@code src/test/cpp}: one library with the entry points of the CUDA
 * driver, NVRTC and cuBLASLt, built by g++ when a test first asks for it.
 */
public final class EmulatedCuda {
  private static final Path MODULE = module();
  private static final Path SOURCES = MODULE.resolve("src/test/cpp");
  private static final Path BUILT = MODULE.resolve("target/cuda-emulated");

  private EmulatedCuda() {}

  /** What a process printed, and how it ended. */
  record Output(int status, String text) {}

  /** {@return the library; skips the test, saying why, where it cannot be built} */
  public static synchronized Path library() {
    String os = System.getProperty("os.name");
    assumeTrue(os.equals("Linux"), "the emulated CUDA device needs Linux, this is " + os);
    assumeTrue(onPath("g++"), "the emulated CUDA device is built by g++, which is not on the PATH");
    run(List.of("sh", SOURCES.resolve("build.sh").toString(), BUILT.toString()));
    return BUILT.resolve("libcuda_emulated.so");
  }

  /** {@return the folder of the kernels' sources} */
  static Path kernels() {
    return MODULE.resolve("src/main/resources/org/meanflow/nn/engine/cuda");
  }

  /** Builds a program of one source in {@code src/test/cpp}, unless it is there and newer. */
  static synchronized Path program(String name) {
    Path source = SOURCES.resolve(name + ".cpp");
    Path program = BUILT.resolve(name);
    try {
      if (Files.notExists(program)
          || Files.getLastModifiedTime(program).compareTo(Files.getLastModifiedTime(source)) < 0) {
        run(
            List.of(
                "g++", "-std=c++17", "-O1", source.toString(), "-o", program.toString(), "-ldl"));
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return program;
  }

  static void run(List<String> command) {
    Output output = output(command);
    assertThat(output.status).as("%s%n%s", command, output.text).isZero();
  }

  static Output output(List<String> command) {
    try {
      Path log = Files.createTempFile("process", ".log");
      try {
        Process process =
            new ProcessBuilder(command)
                .redirectErrorStream(true)
                .redirectOutput(log.toFile())
                .start();
        boolean ended = process.waitFor(5, TimeUnit.MINUTES);
        if (!ended) {
          process.destroyForcibly();
        }
        return new Output(
            ended ? process.exitValue() : -1,
            Files.readString(log) + (ended ? "" : "stopped after 5 minutes"));
      } finally {
        Files.delete(log);
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IllegalStateException(e);
    }
  }

  static boolean onPath(String program) {
    return Stream.of(System.getenv("PATH").split(":"))
        .anyMatch(folder -> Files.isExecutable(Path.of(folder, program)));
  }

  /** This module's folder, wherever in the tree the tests run. */
  private static Path module() {
    Path here = Path.of("").toAbsolutePath();
    for (Path folder = here; folder != null; folder = folder.getParent()) {
      for (Path candidate : List.of(folder, folder.resolve("meanflow-nn"))) {
        if (Files.exists(candidate.resolve("src/test/cpp/emulated_cuda.cpp"))) {
          return candidate;
        }
      }
    }
    throw new IllegalStateException("meanflow-nn/src/test/cpp is nowhere above " + here);
  }
}
