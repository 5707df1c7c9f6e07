package org.meanflow.examples.bench;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import javax.imageio.ImageIO;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class BenchPageTest {
  @TempDir private Path folder;

  private static String row(String engine, String config, double milliseconds) {
    return """
    {"config":"%s","what":"step","precision":"fp32","engine":"%s","threads":2,"ms_median":%s}\
    """
        .formatted(config, engine, milliseconds);
  }

  @Test
  void comparesTheNewestRowWithThePeer() throws IOException {
    Files.write(
        folder.resolve("a.jsonl"),
        List.of(
            row("libtorch-1", "digits", 300),
            row("cpu", "digits", 200),
            row("cpu", "digits", 100),
            row("cpu", "other", 7),
            "{\"what\":\"gemm\",\"gflops\":5}"));
    Files.writeString(
        folder.resolve("README.md"), "before\n<!-- a.jsonl -->\nold\n<!-- /a.jsonl -->\nafter\n");

    BenchPage.draw(folder);

    String page = Files.readString(folder.resolve("README.md"));
    assertThat(page)
        .startsWith("before\n<!-- a.jsonl -->\n|")
        .endsWith("<!-- /a.jsonl -->\nafter\n");
    assertThat(page).doesNotContain("old").doesNotContain("200.0");
    List<String> rows = page.lines().filter(line -> line.startsWith("| step")).toList();
    assertThat(rows).hasSize(3);
    assertThat(rows.get(0)).contains("| libtorch-1 | 2 | 300.0 |").doesNotContain("**");
    assertThat(rows.get(1)).contains("| cpu | 2 | 100.0 |").contains("| **3.00** |");
    assertThat(rows.get(2)).contains("| other fp32 | cpu | 2 | 7.0 |").doesNotContain("**");
    assertThat(ImageIO.read(folder.resolve("a-step.png").toFile()).getWidth()).isEqualTo(860);
  }

  @Test
  void aPageWithoutAPlaceForTheTableIsRefused() throws IOException {
    Files.write(folder.resolve("a.jsonl"), List.of(row("cpu", "digits", 100)));
    Files.writeString(folder.resolve("README.md"), "nothing\n");

    assertThatThrownBy(() -> BenchPage.draw(folder))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("<!-- a.jsonl -->");
  }
}
