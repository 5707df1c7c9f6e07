package org.meanflow.examples;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.stream.Stream;

/** The CPU's name and those of its features that matter here, as far as the system tells. */
public final class Cpu {
  private static final Path DESCRIPTION = Path.of("/proc/cpuinfo");
  private static final List<String> FEATURES =
      List.of("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16");

  private Cpu() {}

  public static String description() {
    try (Stream<String> lines = Files.lines(DESCRIPTION)) {
      String name = "unknown";
      List<String> present = new ArrayList<>();
      for (String line : (Iterable<String>) lines::iterator) {
        String value = line.substring(line.indexOf(':') + 1).strip();
        if (line.startsWith("model name")) {
          name = value;
        } else if (line.startsWith("flags")) {
          Set<String> flags = Set.of(value.split(" "));
          FEATURES.stream().filter(flags::contains).forEach(present::add);
          break;
        }
      }
      return name + " (" + String.join(", ", present) + ")";
    } catch (IOException e) {
      return "unknown (no " + DESCRIPTION + ")";
    }
  }
}
