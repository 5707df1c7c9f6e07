package org.meanflow.train.run;

import com.fasterxml.jackson.core.JacksonException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.DateTimeException;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import org.meanflow.nn.weights.AtomicFile;

/**
 * The metrics of a run, a line of JSON for each record, with the components of {@link Metrics} as
 * keys. Each line reaches the file by itself, so a run that dies loses the line it was writing and
 * nothing else. JSON has no NaN and no infinity: both are written as {@code null} and read as NaN.
 */
public final class MetricsLog implements AutoCloseable {
  private static final ObjectMapper JSON = new ObjectMapper();

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
    List<Metrics> records = Files.exists(file) ? read(file) : List.of();
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
   * @param file the file
   * @return its records, oldest first; without a last line that was cut off
   * @throws IOException if the file cannot be read, or a line before the last is no record
   */
  public static List<Metrics> read(Path file) throws IOException {
    String[] lines = new String(Files.readAllBytes(file), StandardCharsets.UTF_8).split("\n");
    List<Metrics> records = new ArrayList<>();
    for (int i = 0; i < lines.length; i++) {
      try {
        records.add(parse(lines[i]));
      } catch (JacksonException | IllegalArgumentException | DateTimeException e) {
        if (i < lines.length - 1) {
          throw new IOException(
              "%s: line %d: is no record of metrics; mend or remove the line"
                  .formatted(file, i + 1),
              e);
        }
      }
    }
    return records;
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

  private static byte[] line(Metrics metrics) {
    ObjectNode tree = JSON.createObjectNode();
    tree.put("step", metrics.step());
    put(tree, "loss", metrics.loss());
    put(tree, "mse", metrics.mse());
    put(tree, "lr", metrics.lr());
    put(tree, "gradNorm", metrics.gradNorm());
    put(tree, "stepsPerSecond", metrics.stepsPerSecond());
    put(tree, "imagesPerSecond", metrics.imagesPerSecond());
    tree.put("epoch", metrics.epoch());
    tree.put("time", metrics.time().toString());
    return (tree + "\n").getBytes(StandardCharsets.UTF_8);
  }

  private static void put(ObjectNode tree, String key, double value) {
    tree.put(key, Double.isFinite(value) ? (Double) value : null);
  }

  private static Metrics parse(String line) throws JacksonException {
    JsonNode tree = JSON.readTree(line);
    return new Metrics(
        tree.required("step").longValue(),
        number(tree, "loss"),
        number(tree, "mse"),
        number(tree, "lr"),
        number(tree, "gradNorm"),
        number(tree, "stepsPerSecond"),
        number(tree, "imagesPerSecond"),
        tree.required("epoch").longValue(),
        Instant.parse(tree.required("time").asText()));
  }

  private static double number(JsonNode tree, String key) {
    JsonNode value = tree.required(key);
    return value.isNull() ? Double.NaN : value.doubleValue();
  }
}
