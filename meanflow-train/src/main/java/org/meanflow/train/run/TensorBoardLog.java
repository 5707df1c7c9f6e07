package org.meanflow.train.run;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Instant;
import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import java.util.zip.CRC32C;

/**
 * The metrics and grids of a run as event files, which TensorBoard reads. A file is a sequence of
 * records:
 *
 * <pre>
 * uint64  length of the data
 * uint32  masked CRC32C of the eight bytes of the length
 * bytes   data: a protobuf message Event (event.proto, summary.proto of TensorFlow)
 * uint32  masked CRC32C of the data
 * </pre>
 *
 * all little-endian. Each time a run is started it begins a file of its own, whose name sorts after
 * those before it. A file begins with a {@code SessionLog.START} at the step that comes next, by
 * which TensorBoard discards what earlier files have from that step on: the steps that were lost.
 */
public final class TensorBoardLog implements AutoCloseable {
  private static final String PREFIX = "events.out.tfevents.";
  private static final Pattern NAME =
      Pattern.compile(Pattern.quote(PREFIX) + "([0-9]{10,18})\\.meanflow");
  private static final String TAG_PREFIX = "train/";
  private static final int START = 1;
  private static final int STRING = 7;
  private static final int CRC_MASK = 0xa282ead8;

  private final FileChannel out;

  private TensorBoardLog(FileChannel out) {
    this.out = out;
  }

  /**
   * Begins or goes on with a log.
   *
   * @param folder the folder of the event files; is made if it is missing
   * @param step number of steps done where the run begins or goes on; later ones are discarded
   * @return the log; the caller closes it
   * @throws IOException if a file cannot be written
   */
  public static TensorBoardLog resume(Path folder, long step) throws IOException {
    Files.createDirectories(folder);
    Instant now = Instant.now();
    long stamp = now.getEpochSecond();
    try (Stream<Path> files = Files.list(folder)) {
      for (Path file : (Iterable<Path>) files::iterator) {
        Matcher name = NAME.matcher(file.getFileName().toString());
        if (name.matches()) {
          stamp = Math.max(stamp, Long.parseLong(name.group(1)) + 1);
        }
      }
    }
    Path file = folder.resolve(String.format(Locale.ROOT, PREFIX + "%010d.meanflow", stamp));
    TensorBoardLog log =
        new TensorBoardLog(
            FileChannel.open(file, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE));
    try {
      log.write(event(now, 0).bytes(3, utf8("brain.Event:2")));
      log.write(event(now, step + 1).bytes(7, new Message().varint(1, START)));
    } catch (IOException e) {
      log.close();
      throw e;
    }
    return log;
  }

  /**
   * Writes the numbers of a record, and as a text what the guard had to say.
   *
   * @param metrics the record
   * @throws IOException if the file cannot be written; then it is as before
   */
  public void append(Metrics metrics) throws IOException {
    Message summary = new Message();
    for (Metric each : Metric.all()) {
      if (!each.name().equals("step")) {
        summary.bytes(1, value(TAG_PREFIX + each.name()).float32(2, (float) each.of(metrics)));
      }
    }
    if (!metrics.guard().isEmpty()) {
      summary.bytes(1, text(TAG_PREFIX + "guard", metrics.guard()));
    }
    write(event(metrics.time(), metrics.step()).bytes(5, summary));
  }

  /**
   * Writes an image.
   *
   * @param tag its name
   * @param step number of steps done
   * @param png the file that it is
   * @throws IOException if the file cannot be read, is no PNG, or the log cannot be written; then
   *     it is as before
   */
  public void append(String tag, long step, Path png) throws IOException {
    byte[] encoded = Files.readAllBytes(png);
    ByteBuffer header = ByteBuffer.wrap(encoded);
    if (encoded.length < 26 || header.getLong(0) != 0x89504e470d0a1a0aL) {
      throw new IOException(png + " is no PNG");
    }
    Message image =
        new Message()
            .varint(1, header.getInt(20)) // height
            .varint(2, header.getInt(16)) // width
            .varint(3, encoded[25] == 0 ? 1 : 3) // grey, else red, green, blue
            .bytes(4, encoded);
    Message summary = new Message().bytes(1, value(tag).bytes(4, image));
    write(event(Instant.now(), step).bytes(5, summary));
  }

  /**
   * Forces the records written so far to the disk.
   *
   * @throws IOException if the disk refuses
   */
  public void force() throws IOException {
    out.force(false);
  }

  @Override
  public void close() throws IOException {
    out.close();
  }

  private static Message event(Instant time, long step) {
    return new Message().float64(1, time.toEpochMilli() / 1e3).varint(2, step);
  }

  private static Message value(String tag) {
    return new Message().bytes(1, utf8(tag));
  }

  /** A tensor of one string, for the plugin that shows texts. */
  private static Message text(String tag, String text) {
    Message plugin = new Message().bytes(1, utf8("text"));
    return value(tag)
        .bytes(9, new Message().bytes(1, plugin))
        .bytes(8, new Message().varint(1, STRING).bytes(8, utf8(text)));
  }

  private static byte[] utf8(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }

  private void write(Message event) throws IOException {
    byte[] data = event.toByteArray();
    ByteBuffer record =
        ByteBuffer.allocate(data.length + 16).order(ByteOrder.LITTLE_ENDIAN).putLong(data.length);
    record.putInt(maskedCrc(record.array(), 0, 8));
    record.put(data).putInt(maskedCrc(data, 0, data.length)).flip();
    long end = out.position();
    try {
      while (record.hasRemaining()) { // not buffered
        out.write(record);
      }
    } catch (IOException e) {
      out.truncate(end);
      throw e;
    }
  }

  /** Rotated and shifted, as a CRC of data that holds its own CRC is a weak one. */
  static int maskedCrc(byte[] bytes, int from, int length) {
    CRC32C crc = new CRC32C();
    crc.update(bytes, from, length);
    return Integer.rotateRight((int) crc.getValue(), 15) + CRC_MASK;
  }

  /** A protobuf message being written, field by field. */
  private static final class Message {
    private final ByteArrayOutputStream out = new ByteArrayOutputStream();

    /** Zero is what a reader takes for a field that is missing. */
    Message varint(int field, long value) {
      if (value != 0) {
        tag(field, 0);
        raw(value);
      }
      return this;
    }

    Message float64(int field, double value) {
      tag(field, 1);
      fixed(Double.doubleToLongBits(value), Long.BYTES);
      return this;
    }

    Message float32(int field, float value) {
      tag(field, 5);
      fixed(Float.floatToIntBits(value), Integer.BYTES);
      return this;
    }

    Message bytes(int field, byte[] value) {
      tag(field, 2);
      raw(value.length);
      out.writeBytes(value);
      return this;
    }

    Message bytes(int field, Message value) {
      return bytes(field, value.toByteArray());
    }

    byte[] toByteArray() {
      return out.toByteArray();
    }

    private void tag(int field, int wireType) {
      raw(((long) field << 3) | wireType);
    }

    /** Seven bits a byte, the lowest first; the top bit says that more follow. */
    private void raw(long value) {
      long rest = value;
      while ((rest & ~0x7fL) != 0) {
        out.write((int) ((rest & 0x7f) | 0x80));
        rest >>>= 7;
      }
      out.write((int) rest);
    }

    private void fixed(long bits, int count) {
      for (int i = 0; i < count; i++) {
        out.write((int) (bits >>> (8 * i)));
      }
    }
  }
}
