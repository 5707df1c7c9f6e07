package org.meanflow.sample;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.Channels;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.LongStream;
import org.meanflow.nn.weights.AtomicFile;
import org.nd4j.linalg.api.buffer.DataBuffer;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/**
 * Arrays in NumPy's format, version 1.0: little endian, row-major.
 *
 * <p>ND4J's own writer copies the buffer as it lies, so that views and arrays of another order come
 * out scrambled, and its reader takes the JVM down when a file is cut off (1.0.0-M2.1); these do
 * neither.
 *
 * @see <a href="https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html">The
 *     format</a>
 */
public final class NpyFile {
  private static final int ALIGNMENT = 64;
  private static final int CHUNK = 1 << 17;
  private static final Pattern HEADER =
      Pattern.compile(
          "\\{'descr': '(<[fi][48])', 'fortran_order': False, "
              + "'shape': \\(((?:[0-9]{1,15}(?:, ?|(?=\\))))*)\\),? *\\}\\s*");
  private static final byte[] MAGIC = {(byte) 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0};

  private NpyFile() {}

  /**
   * Writes an array, replacing what is there. Missing parent directories are made.
   *
   * @param target the file
   * @param array of type FLOAT, DOUBLE, INT or LONG and of any shape; not changed
   * @throws IOException if the file cannot be written
   * @throws IllegalArgumentException if the array is of another type
   */
  public static void write(Path target, INDArray array) throws IOException {
    String type =
        switch (array.dataType()) {
          case FLOAT -> "<f4";
          case DOUBLE -> "<f8";
          case INT -> "<i4";
          case LONG -> "<i8";
          default ->
              throw new IllegalArgumentException(
                  "array must be of type FLOAT, DOUBLE, INT or LONG, got " + array.dataType());
        };
    AtomicFile.write(
        target,
        channel -> {
          OutputStream out = Channels.newOutputStream(channel);
          out.write(header(type, array.shape()));
          if (array.isEmpty()) {
            return;
          }
          DataBuffer data = array.dup('c').data(); // a view's own buffer holds more than the view
          for (long first = 0; first < array.length(); first += CHUNK) {
            out.write(bytes(data, first, (int) Math.min(CHUNK, array.length() - first)));
          }
        });
  }

  /**
   * Reads an array.
   *
   * @param source a file in the format that {@link #write} and {@code numpy.save} write: version
   *     1.0, row-major, little endian, float32, float64, int32 or int64
   * @return a new array of type FLOAT, DOUBLE, INT or LONG
   * @throws IOException if there is no such file, it is of another format or of the wrong length
   */
  public static INDArray read(Path source) throws IOException {
    ByteBuffer file = ByteBuffer.wrap(Files.readAllBytes(source)).order(ByteOrder.LITTLE_ENDIAN);
    byte[] magic = new byte[MAGIC.length];
    require(file.remaining() >= MAGIC.length + Short.BYTES, source, "it is too short");
    file.get(magic);
    require(Arrays.equals(magic, MAGIC), source, "it does not begin as a .npy file, version 1.0");
    byte[] text = new byte[Short.toUnsignedInt(file.getShort())];
    require(file.remaining() >= text.length, source, "it breaks off in its header");
    file.get(text);
    String description = new String(text, StandardCharsets.US_ASCII);
    Matcher header = HEADER.matcher(description);
    require(
        header.matches(),
        source,
        "its elements must be row-major <f4, <f8, <i4 or <i8, got " + description.strip());
    long[] shape =
        Pattern.compile(",")
            .splitAsStream(header.group(2))
            .map(String::strip)
            .filter(size -> !size.isEmpty())
            .mapToLong(Long::parseLong)
            .toArray();
    String type = header.group(1);
    double elements = LongStream.of(shape).asDoubleStream().reduce(1, (x, y) -> x * y);
    double bytes = elements * Character.digit(type.charAt(2), 10); // cannot overflow
    require(
        bytes == file.remaining() && bytes > 0,
        source,
        "%.0f bytes of data must follow its header, got %d".formatted(bytes, file.remaining()));
    INDArray flat =
        switch (type) {
          case "<f4" -> {
            float[] values = new float[file.remaining() / Float.BYTES];
            file.asFloatBuffer().get(values);
            yield Nd4j.createFromArray(values);
          }
          case "<f8" -> {
            double[] values = new double[file.remaining() / Double.BYTES];
            file.asDoubleBuffer().get(values);
            yield Nd4j.createFromArray(values);
          }
          case "<i4" -> {
            int[] values = new int[file.remaining() / Integer.BYTES];
            file.asIntBuffer().get(values);
            yield Nd4j.createFromArray(values);
          }
          default -> {
            long[] values = new long[file.remaining() / Long.BYTES];
            file.asLongBuffer().get(values);
            yield Nd4j.createFromArray(values);
          }
        };
    return flat.reshape(shape);
  }

  private static void require(boolean valid, Path file, String problem) throws IOException {
    if (!valid) {
      throw new IOException(file + ": " + problem);
    }
  }

  /** The description, padded with spaces so that the data begin at a multiple of 64 bytes. */
  private static byte[] header(String type, long[] shape) {
    String sizes = Arrays.stream(shape).mapToObj(size -> size + ",").collect(Collectors.joining());
    byte[] text =
        "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }"
            .formatted(type, sizes)
            .getBytes(StandardCharsets.US_ASCII);
    int fixed = MAGIC.length + Short.BYTES;
    int total = Math.ceilDiv(fixed + text.length + 1, ALIGNMENT) * ALIGNMENT;
    ByteBuffer header = ByteBuffer.allocate(total).order(ByteOrder.LITTLE_ENDIAN);
    header.put(MAGIC).putShort((short) (total - fixed)).put(text);
    while (header.remaining() > 1) {
      header.put((byte) ' ');
    }
    return header.put((byte) '\n').array();
  }

  private static byte[] bytes(DataBuffer data, long first, int count) {
    ByteBuffer bytes = ByteBuffer.allocate(count * data.dataType().width());
    bytes.order(ByteOrder.LITTLE_ENDIAN);
    for (long i = first; i < first + count; i++) {
      switch (data.dataType()) {
        case FLOAT -> bytes.putFloat(data.getFloat(i));
        case DOUBLE -> bytes.putDouble(data.getDouble(i));
        case INT -> bytes.putInt(data.getInt(i));
        default -> bytes.putLong(data.getLong(i));
      }
    }
    return bytes.array();
  }
}
