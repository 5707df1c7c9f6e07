package org.meanflow.examples;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;

/**
 * {@code ./meanflow} in a tree that was never built. It sees a test dependency that only a packaged
 * build could resolve where no such build was ever installed, as on a fresh machine.
 */
@EnabledOnOs({OS.LINUX, OS.MAC}) // a shell script
class LauncherTest {
  private static final Path ROOT = Path.of("").toAbsolutePath().getParent();

  @TempDir Path tree;

  /** Poms, main sources and the script. */
  private void copySources() throws IOException {
    try (Stream<Path> files = Files.walk(ROOT, 1)) {
      for (Path module : files.filter(file -> Files.exists(file.resolve("pom.xml"))).toList()) {
        copy(module.resolve("pom.xml"));
        if (module.equals(ROOT)) continue;
        try (Stream<Path> sources = Files.walk(module.resolve("src/main"))) {
          for (Path source : sources.filter(Files::isRegularFile).toList()) copy(source);
        }
      }
    }
    copy(ROOT.resolve("meanflow"));
  }

  private void copy(Path file) throws IOException {
    Path target = tree.resolve(ROOT.relativize(file).toString());
    Files.createDirectories(target.getParent());
    Files.copy(file, target);
  }

  /** What it printed, once it has ended well. */
  private String launch(String... arguments) throws Exception {
    Path printed = tree.resolve("printed.txt");
    ProcessBuilder builder =
        new ProcessBuilder(Stream.concat(Stream.of("./meanflow"), Stream.of(arguments)).toList())
            .directory(tree.toFile())
            .redirectErrorStream(true)
            .redirectOutput(printed.toFile());
    String repository = System.getProperty("maven.repo.local");
    if (repository != null)
      builder.environment().put("MEANFLOW_MAVEN_OPTS", "-Dmaven.repo.local=" + repository);
    Process process = builder.start();
    try {
      assertThat(process.waitFor(5, TimeUnit.MINUTES)).isTrue();
    } finally {
      process.destroyForcibly();
    }
    String text = Files.readString(printed);
    assertThat(process.exitValue()).as(text).isZero();
    return text;
  }

  @Test
  void buildsWhatWasNeverBuiltOnceAndRuns() throws Exception {
    boolean hasMaven = new ProcessBuilder("sh", "-c", "command -v mvn").start().waitFor() == 0;
    assumeTrue(hasMaven, "no mvn on the PATH, as under an editor with a Maven of its own");
    copySources();
    List<String> commands = List.of("train", "sample", "bench", "info");
    assertThat(launch("--help")).contains("building").contains(commands);
    assertThat(launch("--help")).doesNotContain("building").contains(commands);
  }
}
