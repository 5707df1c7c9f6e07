package org.meanflow.sample;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.Channels;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.stream.Collectors;
import org.meanflow.nn.weights.AtomicFile;
import org.nd4j.linalg.api.buffer.DataBuffer;
import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * Arrays in NumPy's format, version 1.0: little endian, row-major.
 *
 * <p>ND4J's own writer copies the buffer as it lies, so that views and arrays of another order come
 * out scrambled (1.0.0-M2.1); this one writes the elements in the array's order.
 *
 * @see <a href="https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html">The
 *     format</a>
 */
public final class NpyFile {
  private static final int ALIGNMENT = 64;
  private static final int CHUNK = 1 << 17;
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
