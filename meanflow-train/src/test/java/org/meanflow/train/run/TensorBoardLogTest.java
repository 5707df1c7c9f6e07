package org.meanflow.train.run;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.awt.image.BufferedImage;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.stream.LongStream;
import javax.imageio.ImageIO;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TensorBoardLogTest {
  @TempDir Path directory;

  /** Vectors of RFC 3720, appendix B.4. */
  @Test
  void theReadersChecksumIsCrc32c() {
    byte[] ascending = new byte[32];
    for (int i = 0; i < 32; i++) {
      ascending[i] = (byte) i;
    }
    byte[] ones = new byte[32];
    Arrays.fill(ones, (byte) 0xff);
    assertThat(EventFiles.crc32c(new byte[32])).isEqualTo(0x8a9136aa);
    assertThat(EventFiles.crc32c(ones)).isEqualTo(0x62a8ab43);
    assertThat(EventFiles.crc32c(ascending)).isEqualTo(0x46dd794e);
    assertThat(EventFiles.crc32c("123456789".getBytes(StandardCharsets.US_ASCII)))
        .isEqualTo(0xe3069283);
  }

  /** The first record has 24 bytes, so every event file of TensorFlow begins with these twelve. */
  @Test
  void aFileBeginsAsThoseOfTensorFlow() throws IOException {
    TensorBoardLog.resume(directory, 0).close();
    byte[] file = Files.readAllBytes(EventFiles.list(directory).getFirst());
    assertThat(Arrays.copyOf(file, 13))
        .isEqualTo(HexFormat.of().parseHex("1800000000000000a37f4b2209"));
    assertThat(Arrays.copyOfRange(file, 21, 36))
        .isEqualTo("\u001a\rbrain.Event:2".getBytes(StandardCharsets.US_ASCII));
  }

  @Test
  void numbersAreReadBack() throws IOException {
    try (TensorBoardLog log = TensorBoardLog.resume(directory, 0)) {
      log.append(metrics(1, 0.1));
      log.append(metrics(3_000_000_000L, Double.NaN));
      EventFiles events = EventFiles.read(directory); // before the log is closed
      assertThat(events.tags())
          .containsExactlyElementsOf(
              Metric.all().stream()
                  .map(Metric::name)
                  .filter(name -> !name.equals("step"))
                  .map(name -> "train/" + name)
                  .toList())
          .contains("train/loss", "train/lr", "train/epoch");
      assertThat(events.scalars("train/loss"))
          .containsExactly(
              new EventFiles.Scalar("train/loss", 1, 1.5, 0.1f),
              new EventFiles.Scalar("train/loss", 3_000_000_000L, 1.5, Float.NaN));
      assertThat(events.texts()).containsExactly(new EventFiles.Text("train/guard", 1, "a spike"));
      assertThat(events.scalars("train/epoch")).extracting("value").containsExactly(3f, 3f);
    }
  }

  @Test
  void imagesAreReadBack() throws IOException {
    Path grey = directory.resolve("grey.png");
    Path color = directory.resolve("color.png");
    ImageIO.write(new BufferedImage(5, 3, BufferedImage.TYPE_BYTE_GRAY), "png", grey.toFile());
    ImageIO.write(new BufferedImage(300, 200, BufferedImage.TYPE_3BYTE_BGR), "png", color.toFile());
    Path text =
        Files.writeString(directory.resolve("text.png"), "no picture, but 26 bytes or more");
    Path events = directory.resolve("events");
    try (TensorBoardLog log = TensorBoardLog.resume(events, 0)) {
      log.append("grey", 7, grey);
      assertThatThrownBy(() -> log.append("text", 8, text)).hasMessage(text + " is no PNG");
      log.append("color", 9, color);
    }
    List<EventFiles.Image> images = EventFiles.read(events).images();
    assertThat(images)
        .usingRecursiveFieldByFieldElementComparator()
        .containsExactly(
            new EventFiles.Image("grey", 7, 3, 5, 1, Files.readAllBytes(grey)),
            new EventFiles.Image("color", 9, 200, 300, 3, Files.readAllBytes(color)));
  }

  @Test
  void goingOnDiscardsWhatIsLater() throws IOException {
    write(0, 1, 30);
    write(20, 21, 25);
    write(25, 26, 28);
    write(10, 11, 12);
    assertThat(EventFiles.list(directory)).hasSize(4);
    assertThat(EventFiles.read(directory).scalars("train/loss"))
        .extracting(EventFiles.Scalar::step)
        .containsExactlyElementsOf(LongStream.rangeClosed(1, 12).boxed().toList());
  }

  @Test
  void goingOnFromTheStartDiscardsAll() throws IOException {
    write(0, 1, 30);
    write(0, 1, 2);
    assertThat(EventFiles.read(directory).scalars("train/loss")).hasSize(2);
  }

  @Test
  void aTornFileLosesNoMoreThanItsLastRecord() throws IOException {
    write(0, 1, 3);
    Path file = EventFiles.list(directory).getFirst();
    byte[] whole = Files.readAllBytes(file);
    int last = EventFiles.records(whole).getLast().length + 16;
    for (int cut = 1; cut < last; cut += 7) {
      Files.write(file, Arrays.copyOf(whole, whole.length - cut));
      assertThat(EventFiles.read(directory).scalars("train/loss")).hasSize(2);
    }
    write(2, 3, 4);
    assertThat(EventFiles.read(directory).scalars("train/loss"))
        .extracting(EventFiles.Scalar::step)
        .containsExactly(1L, 2L, 3L, 4L);
  }

  private void write(long done, long from, long to) throws IOException {
    try (TensorBoardLog log = TensorBoardLog.resume(directory, done)) {
      for (long step = from; step <= to; step++) {
        log.append(metrics(step, step));
      }
    }
  }

  private static Metrics metrics(long step, double loss) {
    return new Metrics(
        step,
        loss,
        0.25,
        2e-3,
        1.5,
        12.5,
        800,
        0.01,
        500,
        3,
        loss == 0.1 ? "a spike" : "",
        Instant.ofEpochMilli(1500));
  }
}
