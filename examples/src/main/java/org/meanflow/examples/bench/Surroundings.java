package org.meanflow.examples.bench;

import java.io.IOException;
import java.net.URISyntaxException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.meanflow.train.run.ProcessMemory;

/** What a figure depends on besides what is measured. */
final class Surroundings {
  private Surroundings() {}

  /** The most memory that this process has held so far, MiB; {@code null} where unknown. */
  static @Nullable Long peakMemory() {
    double peak = ProcessMemory.peak();
    return Double.isNaN(peak) ? null : (long) peak;
  }

  /**
   * The commit that the sources of this class belong to, and whether sources were changed since;
   * {@code null} where unknown. {@code -Dmeanflow.commit} tells it where there is no repository.
   */
  static @Nullable String commit() {
    String told = System.getProperty("meanflow.commit");
    if (told != null) {
      return told;
    }
    String head = git("rev-parse", "--short", "HEAD");
    String changed = git("status", "--porcelain", "--", ":/*.java", ":/*.xml", ":/*.args");
    return head == null || changed == null ? null : head + (changed.isEmpty() ? "" : "-dirty");
  }

  private static @Nullable String git(String... arguments) {
    try {
      Path classes =
          Path.of(Surroundings.class.getProtectionDomain().getCodeSource().getLocation().toURI());
      Path folder = Files.isDirectory(classes) ? classes : classes.getParent();
      List<String> command = new ArrayList<>(List.of("git"));
      command.addAll(List.of(arguments));
      Process git =
          new ProcessBuilder(command)
              .directory(folder == null ? null : folder.toFile())
              .redirectError(ProcessBuilder.Redirect.DISCARD)
              .start();
      String answer =
          new String(git.getInputStream().readAllBytes(), StandardCharsets.UTF_8).strip();
      return git.waitFor() == 0 ? answer : null;
    } catch (IOException | URISyntaxException e) {
      return null;
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return null;
    }
  }
}
