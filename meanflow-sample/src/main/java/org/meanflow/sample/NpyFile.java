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
 * out scrambled (1.0.0-M2.1); this one writes what the array says, slice by slice.
 *
 * @see <a href="https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html">The
 *     format</a>
 */
public final class NpyFile {
  private static final int ALIGNMENT = 64;
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
          if (array.rank() < 2) {
            out.write(bytes(array));
          } else {
            for (long i = 0; i < array.size(0); i++) {
              out.write(bytes(array.slice(i)));
            }
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

  private static byte[] bytes(INDArray array) {
    if (array.isEmpty()) {
      return new byte[0];
    }
    DataBuffer data = array.dup('c').data(); // a view's own buffer holds more than the view
    int elementBytes = array.dataType().width();
    ByteBuffer bytes = ByteBuffer.allocate(Math.toIntExact(array.length() * elementBytes));
    bytes.order(ByteOrder.LITTLE_ENDIAN);
    switch (array.dataType()) {
      case FLOAT -> bytes.asFloatBuffer().put(data.asFloat());
      case DOUBLE -> bytes.asDoubleBuffer().put(data.asDouble());
      case INT -> bytes.asIntBuffer().put(data.asInt());
      default -> bytes.asLongBuffer().put(data.asLong());
    }
    return bytes.array();
  }
}
