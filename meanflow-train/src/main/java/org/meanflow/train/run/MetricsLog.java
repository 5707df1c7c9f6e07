package org.meanflow.train.run;

import com.fasterxml.jackson.core.JacksonException;
import com.fasterxml.jackson.core.io.JsonStringEncoder;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.lang.reflect.RecordComponent;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Instant;
import java.util.List;
import org.meanflow.nn.weights.AtomicFile;

/**
 * The metrics of a run, a line of JSON for each record, with the components of {@link Metrics} as
 * keys. Each line reaches the file by itself, so a run that dies loses the line it was writing and
 * nothing else. JSON has no NaN and no infinity: both are written as {@code null} and read as NaN.
 */
public final class MetricsLog implements AutoCloseable {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final RecordComponent[] COMPONENTS = Metrics.class.getRecordComponents();

  private final FileChannel out;

  private MetricsLog(Path file, StandardOpenOption option) throws IOException {
    out = FileChannel.open(file, option, StandardOpenOption.WRITE);
  }

  /**
   * Starts a log.
   *
   * @param file the file, which must not exist
   * @return the log; the caller closes it
   * @throws IOException if the file exists or cannot be written
   */
  public static MetricsLog create(Path file) throws IOException {
    return new MetricsLog(file, StandardOpenOption.CREATE_NEW);
  }

  /**
   * Goes on with a log from a step. Later records, and a last line that a crash cut off, are taken
   * away; that happens as a whole or not at all.
   *
   * @param file the file; may be missing
   * @param step number of steps done where the run goes on; records up to it are kept
   * @return the log; the caller closes it
   * @throws IOException if the file is no log or cannot be written
   */
  public static MetricsLog resume(Path file, long step) throws IOException {
    List<Metrics> records = read(file);
    AtomicFile.write(
        file,
        channel -> {
          for (Metrics each : records) {
            if (each.step() <= step) {
              write(channel, line(each));
            }
          }
        });
    return new MetricsLog(file, StandardOpenOption.APPEND);
  }

  /**
   * Reads a log.
   *
   * @param file the file; may be missing
   * @return its records, oldest first; without a last line that was cut off
   * @throws IOException if the file cannot be read, or a line before the last is no record
   */
  public static List<Metrics> read(Path file) throws IOException {
    return new MetricsReader(file).read();
  }

  /**
   * Writes a record.
   *
   * @param metrics the record
   * @throws IOException if the file cannot be written; then it is as before
   */
  public void append(Metrics metrics) throws IOException {
    long end = out.size();
    try {
      write(out, line(metrics)); // not buffered
    } catch (IOException e) {
      out.truncate(end);
      throw e;
    }
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

  private static void write(FileChannel channel, byte[] bytes) throws IOException {
    ByteBuffer rest = ByteBuffer.wrap(bytes);
    while (rest.hasRemaining()) {
      channel.write(rest);
    }
  }

  /**
   * Written by hand: a tree of JSON cost 16 MiB when this came to be compiled, after 1,500 steps.
   */
  private static byte[] line(Metrics metrics) {
    StringBuilder line = new StringBuilder();
    try {
      for (RecordComponent each : COMPONENTS) {
        String value = json(each.getAccessor().invoke(metrics));
        if (!value.isEmpty()) {
          line.append(line.isEmpty() ? "{\"" : ",\"")
              .append(each.getName())
              .append("\":")
              .append(value);
        }
      }
    } catch (ReflectiveOperationException e) {
      throw new LinkageError("Metrics", e);
    }
    return line.append("}\n").toString().getBytes(StandardCharsets.UTF_8);
  }

  /** Empty for an empty text, which is not worth a key. */
  private static String json(Object value) {
    return switch (value) {
      case Double number -> Double.isFinite(number) ? number.toString() : "null";
      case Long number -> number.toString();
      case Object text when text.toString().isEmpty() -> "";
      case Object text ->
          '"' + new String(JsonStringEncoder.getInstance().quoteAsString(text.toString())) + '"';
    };
  }

  /** Reads a line. */
  static Metrics parse(String line) throws JacksonException {
    JsonNode tree = JSON.readTree(line);
    Object[] values = new Object[COMPONENTS.length];
    Class<?>[] types = new Class<?>[COMPONENTS.length];
    for (int i = 0; i < COMPONENTS.length; i++) {
      String key = COMPONENTS[i].getName();
      types[i] = COMPONENTS[i].getType();
      if (types[i] == double.class) {
        values[i] = number(tree, key);
      } else if (types[i] == long.class) {
        values[i] = tree.required(key).longValue();
      } else if (types[i] == String.class) {
        values[i] = tree.path(key).asText("");
      } else {
        values[i] = Instant.parse(tree.required(key).asText());
      }
    }
    try {
      return Metrics.class.getDeclaredConstructor(types).newInstance(values);
    } catch (ReflectiveOperationException e) {
      throw new LinkageError("Metrics", e);
    }
  }

  /** A key may be missing: metrics are added over time, and old logs stay readable. */
  private static double number(JsonNode tree, String key) {
    JsonNode value = tree.path(key);
    if (value.isMissingNode() || value.isNull()) {
      return Double.NaN;
    }
    if (!value.isNumber()) {
      throw new IllegalArgumentException(key + " must be a number, got " + value);
    }
    return value.doubleValue();
  }
}
