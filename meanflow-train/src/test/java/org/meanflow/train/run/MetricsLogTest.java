package org.meanflow.train.run;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class MetricsLogTest {
  @TempDir Path directory;
  private Path file;

  @BeforeEach
  void nameTheFile() {
    file = directory.resolve("metrics.jsonl");
  }

  @Test
  void aRecordIsALineOfJson() throws IOException {
    try (MetricsLog log = MetricsLog.create(file)) {
      log.append(metrics(10));
      assertThat(file) // before the log is closed
          .hasContent(
              "{\"step\":10,\"loss\":0.9,\"mse\":0.25,\"lr\":0.002,\"gradNorm\":1.5,"
                  + "\"stepsPerSecond\":12.5,\"imagesPerSecond\":800.0,\"dataWait\":0.01,\"memory\":500.0,\"epoch\":3,"
                  + "\"time\":\"2025-05-19T12:00:10Z\"}");
      log.append(metrics(20));
    }
    assertThat(Files.readString(file)).contains("\"guard\":\"skipped\"").endsWith("}\n");
    assertThat(MetricsLog.read(file)).containsExactly(metrics(10), metrics(20));
  }

  @Test
  void numbersThatJsonDoesNotHaveAreNull() throws IOException {
    double infinity = Double.POSITIVE_INFINITY;
    try (MetricsLog log = MetricsLog.create(file)) {
      log.append(
          new Metrics(1, Double.NaN, infinity, 0, -infinity, 1, 1, 0, 500, 0, "", Instant.EPOCH));
    }
    assertThat(Files.readString(file)).contains("\"loss\":null,\"mse\":null,\"lr\":0.0");
    assertThat(MetricsLog.read(file).getFirst().loss()).isNaN();
    assertThat(MetricsLog.read(file).getFirst().mse()).isNaN();
  }

  /** As it was before there were the components that it lacks. */
  @Test
  void anOldLogIsRead() throws IOException {
    Files.writeString(
        file, "{\"step\":1,\"loss\":0.5,\"epoch\":0,\"time\":\"1970-01-01T00:00:00Z\"}\n");
    Metrics old = MetricsLog.read(file).getFirst();
    assertThat(old.loss()).isEqualTo(0.5);
    assertThat(old.memory()).isNaN();
    assertThat(old.guard()).isEmpty();
  }

  @Test
  void anExistingLogIsNotOverwritten() throws IOException {
    Files.createFile(file);
    assertThatThrownBy(() -> MetricsLog.create(file))
        .isInstanceOf(FileAlreadyExistsException.class);
  }

  @Test
  void resumingTakesLaterRecordsAway() throws IOException {
    try (MetricsLog log = MetricsLog.create(file)) {
      for (int step : List.of(10, 20, 30, 40)) {
        log.append(metrics(step));
      }
    }
    try (MetricsLog log = MetricsLog.resume(file, 25)) {
      assertThat(MetricsLog.read(file)).containsExactly(metrics(10), metrics(20));
      log.append(metrics(30));
    }
    assertThat(MetricsLog.read(file)).containsExactly(metrics(10), metrics(20), metrics(30));
    MetricsLog.resume(file, 30).close();
    assertThat(MetricsLog.read(file)).hasSize(3);
    MetricsLog.resume(file, 0).close();
    assertThat(MetricsLog.read(file)).isEmpty();
  }

  @Test
  void aTornLastLineIsLostWhereverItIsTorn() throws IOException {
    try (MetricsLog log = MetricsLog.create(file)) {
      log.append(metrics(10));
    }
    String line = Files.readString(file);
    for (int length = 0; length < line.length() - 1; length++) {
      Files.writeString(file, line + line.substring(0, length));
      assertThat(MetricsLog.read(file)).containsExactly(metrics(10));
      try (MetricsLog log = MetricsLog.resume(file, 10)) {
        log.append(metrics(11));
      }
      assertThat(MetricsLog.read(file)).containsExactly(metrics(10), metrics(11));
    }
  }

  @Test
  void aMissingOrEmptyLogIsResumedFromNothing() throws IOException {
    try (MetricsLog log = MetricsLog.resume(file, 10)) {
      log.append(metrics(11));
    }
    assertThat(MetricsLog.read(file)).containsExactly(metrics(11));
    Files.writeString(file, "");
    MetricsLog.resume(file, 10).close();
    assertThat(file).isEmptyFile();
  }

  @Test
  void aDamagedLineInTheMiddleIsNamed() throws IOException {
    for (String damage : List.of("", "{\"step\":", "{}", "[]", "17", "\"text\"")) {
      try (MetricsLog log = MetricsLog.create(file)) {
        log.append(metrics(10));
      }
      String line = Files.readString(file);
      Files.writeString(file, line + damage + "\n" + line);
      String before = Files.readString(file);
      assertThatThrownBy(() -> MetricsLog.resume(file, 10))
          .isInstanceOf(IOException.class)
          .hasMessage(file + ": line 2: is no record of metrics; mend or remove the line");
      assertThat(file).hasContent(before);
      Files.delete(file);
    }
  }

  private static Metrics metrics(long step) {
    Instant time = Instant.parse("2025-05-19T12:00:00Z").plusSeconds(step);
    return new Metrics(
        step, 0.9, 0.25, 2e-3, 1.5, 12.5, 800, 0.01, 500, 3, step == 20 ? "skipped" : "", time);
  }
}
