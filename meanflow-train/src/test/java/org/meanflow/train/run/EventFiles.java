package org.meanflow.train.run;

import static org.assertj.core.api.Assertions.assertThat;

import com.google.protobuf.UnknownFieldSet;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;

/**
 * Reads event files as TensorBoard does: those of a folder in the order of their names, each up to
 * a record that is cut off; the second and any later {@code SessionLog.START} takes away what was
 * read before it from its step on. Checksums by the definition of CRC32C, messages by the protobuf
 * library, fields by the numbers in event.proto and summary.proto of TensorFlow.
 */
public final class EventFiles {
  private static final int CASTAGNOLI_REFLECTED = 0x82f63b78;

  private final List<Scalar> scalars = new ArrayList<>();
  private final List<Image> images = new ArrayList<>();
  private final List<Text> texts = new ArrayList<>();
  private boolean started;

  public record Scalar(String tag, long step, double wallTime, float value) {}

  public record Text(String tag, long step, String text) {}

  public record Image(String tag, long step, long height, long width, long channels, byte[] file) {}

  public static EventFiles read(Path folder) throws IOException {
    EventFiles events = new EventFiles();
    for (Path file : list(folder)) {
      boolean first = true;
      for (byte[] record : records(Files.readAllBytes(file))) {
        events.add(UnknownFieldSet.parseFrom(record), first);
        first = false;
      }
    }
    return events;
  }

  public static List<Path> list(Path folder) throws IOException {
    try (Stream<Path> files = Files.list(folder)) {
      return files.filter(f -> f.getFileName().toString().contains("tfevents")).sorted().toList();
    }
  }

  public List<Scalar> scalars(String tag) {
    return scalars.stream().filter(scalar -> scalar.tag.equals(tag)).toList();
  }

  public List<String> tags() {
    return scalars.stream().map(Scalar::tag).distinct().toList();
  }

  public List<Text> texts() {
    return texts;
  }

  public List<Image> images() {
    return images;
  }

  static List<byte[]> records(byte[] bytes) {
    ByteBuffer file = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
    List<byte[]> records = new ArrayList<>();
    while (file.remaining() >= 12) {
      byte[] length = new byte[8];
      file.get(file.position(), length);
      long size = file.getLong();
      assertThat(file.getInt()).isEqualTo(maskedCrc(length));
      if (file.remaining() < size + 4) {
        break;
      }
      byte[] data = new byte[(int) size];
      file.get(data);
      assertThat(file.getInt()).isEqualTo(maskedCrc(data));
      records.add(data);
    }
    return records;
  }

  private void add(UnknownFieldSet event, boolean first) {
    double wallTime = Double.longBitsToDouble(event.getField(1).getFixed64List().getFirst());
    long step = event.hasField(2) ? event.getField(2).getVarintList().getFirst() : 0;
    assertThat(event.hasField(3)).isEqualTo(first);
    if (first) {
      assertThat(text(event, 3)).isEqualTo("brain.Event:2");
    }
    if (event.hasField(7)) {
      assertThat(message(event, 7).getField(1).getVarintList()).containsExactly(1L); // START
      if (started) {
        scalars.removeIf(scalar -> scalar.step >= step);
        images.removeIf(image -> image.step >= step);
        texts.removeIf(text -> text.step >= step);
      }
      started = true;
    }
    if (event.hasField(5)) {
      for (var each : message(event, 5).getField(1).getLengthDelimitedList()) {
        add(parse(each), step, wallTime);
      }
    }
  }

  private void add(UnknownFieldSet value, long step, double wallTime) {
    if (value.hasField(2)) {
      int bits = value.getField(2).getFixed32List().getFirst();
      scalars.add(new Scalar(text(value, 1), step, wallTime, Float.intBitsToFloat(bits)));
    }
    if (value.hasField(8)) {
      UnknownFieldSet tensor = message(value, 8);
      assertThat(tensor.getField(1).getVarintList()).containsExactly(7L); // DT_STRING
      assertThat(text(message(message(value, 9), 1), 1)).isEqualTo("text"); // the plugin
      texts.add(new Text(text(value, 1), step, text(tensor, 8)));
    }
    if (value.hasField(4)) {
      UnknownFieldSet image = message(value, 4);
      images.add(
          new Image(
              text(value, 1),
              step,
              image.getField(1).getVarintList().getFirst(),
              image.getField(2).getVarintList().getFirst(),
              image.getField(3).getVarintList().getFirst(),
              image.getField(4).getLengthDelimitedList().getFirst().toByteArray()));
    }
  }

  private static String text(UnknownFieldSet message, int field) {
    return message.getField(field).getLengthDelimitedList().getFirst().toStringUtf8();
  }

  private static UnknownFieldSet message(UnknownFieldSet message, int field) {
    return parse(message.getField(field).getLengthDelimitedList().getFirst());
  }

  private static UnknownFieldSet parse(com.google.protobuf.ByteString bytes) {
    try {
      return UnknownFieldSet.parseFrom(bytes);
    } catch (IOException e) {
      throw new AssertionError(e);
    }
  }

  static int maskedCrc(byte[] data) {
    int crc = crc32c(data);
    return ((crc >>> 15) | (crc << 17)) + 0xa282ead8;
  }

  /** Bit by bit: RFC 3720, section 12.1. */
  static int crc32c(byte[] data) {
    int crc = -1;
    for (byte each : data) {
      crc ^= each & 0xff;
      for (int bit = 0; bit < 8; bit++) {
        crc = (crc >>> 1) ^ ((crc & 1) == 0 ? 0 : CASTAGNOLI_REFLECTED);
      }
    }
    return ~crc;
  }
}
