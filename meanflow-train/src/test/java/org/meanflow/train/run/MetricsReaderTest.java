package org.meanflow.train.run;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Instant;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class MetricsReaderTest {
  @TempDir Path directory;
  private Path file;
  private MetricsReader reader;

  @BeforeEach
  void nameTheFile() {
    file = directory.resolve("metrics.jsonl");
    reader = new MetricsReader(file);
  }

  @Test
  void readsOnWhereItEnded() throws IOException {
    assertThat(reader.read()).isEmpty();
    try (MetricsLog log = MetricsLog.resume(file, 0)) {
      assertThat(reader.read()).isEmpty();
      log.append(metrics(1));
      Metrics first = reader.read().getFirst();
      log.append(metrics(2));
      log.append(metrics(3));
      assertThat(reader.read()).containsExactly(metrics(1), metrics(2), metrics(3));
      assertThat(reader.read().getFirst()).isSameAs(first); // it was not read again
    }
  }

  @Test
  void aLineCountsOnceItIsWhole() throws IOException {
    try (MetricsLog log = MetricsLog.resume(file, 0)) {
      log.append(metrics(1));
    }
    String line = Files.readString(file);
    assertThat(reader.read()).hasSize(1);
    for (int i = 0; i < line.length(); i++) {
      assertThat(reader.read()).hasSize(1);
      Files.writeString(file, line.substring(i, i + 1), StandardOpenOption.APPEND);
    }
    assertThat(reader.read()).containsExactly(metrics(1), metrics(1));
  }

  @Test
  void startsAnewWhereTheLogWasTakenBack() throws IOException {
    try (MetricsLog log = MetricsLog.resume(file, 0)) {
      log.append(metrics(1));
      log.append(metrics(2));
      log.append(metrics(3));
    }
    assertThat(reader.read()).hasSize(3);
    try (MetricsLog log = MetricsLog.resume(file, 1)) {
      log.append(metrics(20));
      log.append(metrics(30));
      log.append(metrics(40));
    }
    assertThat(reader.read()).containsExactly(metrics(1), metrics(20), metrics(30), metrics(40));
  }

  @Test
  void damageIsAnErrorEachTime() throws IOException {
    try (MetricsLog log = MetricsLog.resume(file, 0)) {
      log.append(metrics(1));
    }
    String line = Files.readString(file);
    Files.writeString(file, line + "{}\n" + line);
    for (int i = 0; i < 2; i++) {
      assertThatThrownBy(reader::read).hasMessageStartingWith(file + ": line 2: is no record");
    }
  }

  /** As a log that was written before a metric was added. */
  @Test
  void aNumberThatIsMissingIsUnknown() throws IOException {
    Files.writeString(
        file, "{\"step\":1,\"loss\":2.5,\"epoch\":0,\"time\":\"2025-05-19T12:00:00Z\"}\n");
    Metrics read = reader.read().getFirst();
    assertThat(read.loss()).isEqualTo(2.5);
    assertThat(read.gradNorm()).isNaN();
  }

  @Test
  void aTextIsNoNumber() throws IOException {
    Files.writeString(
        file, "{\"step\":1,\"loss\":\"2.5\",\"epoch\":0,\"time\":\"2025-05-19T12:00:00Z\"}\n\n");
    assertThatThrownBy(reader::read).hasMessageStartingWith(file + ": line 1: is no record");
  }

  private static Metrics metrics(long step) {
    return new Metrics(step, 0.9, 0.25, 2e-3, 1.5, 12.5, 800, 0.01, 500, 3, "", Instant.EPOCH);
  }
}
