package org.meanflow.nn.weights;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * Writes a safetensors file: tensors in the order in which they were added, streamed in chunks and
 * moved into place when complete.
 *
 * <pre>{@code
 * new SafetensorsWriter()
 *     .metadata("format", "pt")
 *     .add("blocks.0.attn.qkv.bias", Dtype.F32, new long[] {1152}, bias)
 *     .write(path);
 * }</pre>
 *
 * <p>Values are not copied when they are added: leave them as they are until {@link #write} is
 * through. Not safe for use by several threads.
 */
public final class SafetensorsWriter {
  private static final int CHUNK_BYTES = 1 << 20;
  private static final int ALIGNMENT = 8;

  private final Map<String, Entry> entries = new LinkedHashMap<>();
  private final Map<String, String> metadata = new LinkedHashMap<>();
  private long dataBytes;

  /** A writer without tensors. */
  public SafetensorsWriter() {}

  private record Entry(TensorInfo tensor, Source source) {}

  /** Where the elements of a tensor come from. */
  @FunctionalInterface
  public interface Source {

    /**
     * Fills a chunk of at most 1 MiB.
     *
     * @param chunk where to put the elements, row-major and little endian
     * @param first the first of them, counted from 0
     * @param count how many
     */
    void fill(MemorySegment chunk, long first, int count);
  }

  /**
   * Adds a string to {@code __metadata__}.
   *
   * @param key its name; a string of this name already there is replaced
   * @param value the string
   * @return this writer
   */
  public SafetensorsWriter metadata(String key, String value) {
    metadata.put(key, value);
    return this;
  }

  /**
   * Adds a tensor from memory.
   *
   * @param name its name, new to this writer and not {@code "__metadata__"}
   * @param dtype its data type
   * @param shape its dimensions; empty for a scalar
   * @param data its elements, row-major and little endian; not changed
   * @return this writer
   * @throws IllegalArgumentException if the name is taken or the size of the data does not fit
   */
  public SafetensorsWriter add(String name, Dtype dtype, long[] shape, MemorySegment data) {
    int bytes = dtype.bytes();
    requireWhole(name, dtype, data.byteSize());
    return add(
        name,
        dtype,
        shape,
        data.byteSize() / bytes,
        (chunk, first, count) ->
            MemorySegment.copy(data, first * bytes, chunk, 0, (long) count * bytes));
  }

  /**
   * Adds a floating-point tensor. To F16 and BF16, values are rounded to nearest, ties to even.
   *
   * @param name its name, new to this writer and not {@code "__metadata__"}
   * @param dtype its data type, a floating one
   * @param shape its dimensions; empty for a scalar
   * @param values its elements, row-major; not changed
   * @return this writer
   * @throws IllegalArgumentException if the name is taken, the type is not a floating one or the
   *     number of values does not fit
   */
  public SafetensorsWriter add(String name, Dtype dtype, long[] shape, float[] values) {
    requireFloating(name, dtype, true);
    return add(
        name,
        dtype,
        shape,
        values.length,
        (chunk, first, count) -> {
          if (dtype == Dtype.F32) {
            MemorySegment.copy(values, (int) first, chunk, Dtype.FLOAT, 0, count);
          } else {
            for (int i = 0; i < count; i++) {
              dtype.setFloating(chunk, i, values[(int) first + i]);
            }
          }
        });
  }

  /**
   * Adds a floating-point tensor. To F32, values are rounded to nearest, ties to even; to F16 and
   * BF16, first to F32 and then once more.
   *
   * @param name its name, new to this writer and not {@code "__metadata__"}
   * @param dtype its data type, a floating one
   * @param shape its dimensions; empty for a scalar
   * @param values its elements, row-major; not changed
   * @return this writer
   * @throws IllegalArgumentException if the name is taken, the type is not a floating one or the
   *     number of values does not fit
   */
  public SafetensorsWriter add(String name, Dtype dtype, long[] shape, double[] values) {
    requireFloating(name, dtype, true);
    return add(
        name,
        dtype,
        shape,
        values.length,
        (chunk, first, count) -> {
          for (int i = 0; i < count; i++) {
            dtype.setFloating(chunk, i, values[(int) first + i]);
          }
        });
  }

  /**
   * Adds an integer or boolean tensor.
   *
   * @param name its name, new to this writer and not {@code "__metadata__"}
   * @param dtype its data type, not a floating one
   * @param shape its dimensions; empty for a scalar
   * @param values its elements, row-major, each within the range of the type; not changed
   * @return this writer
   * @throws IllegalArgumentException if the name is taken, the type is a floating one, the number
   *     of values does not fit or a value is out of range
   */
  public SafetensorsWriter add(String name, Dtype dtype, long[] shape, long[] values) {
    requireFloating(name, dtype, false);
    for (int i = 0; i < values.length; i++) {
      if (!dtype.holds(values[i])) {
        throw new IllegalArgumentException(
            "tensor '%s': element %d must fit %s, got %d".formatted(name, i, dtype, values[i]));
      }
    }
    return add(
        name,
        dtype,
        shape,
        values.length,
        (chunk, first, count) -> {
          for (int i = 0; i < count; i++) {
            dtype.setInteger(chunk, i, values[(int) first + i]);
          }
        });
  }

  /**
   * Writes the file, replacing what is there. Missing parent directories are made. If it fails, a
   * file that was there is untouched.
   *
   * @param target the file
   * @throws IOException if it cannot be written
   */
  public void write(Path target) throws IOException {
    AtomicFile.write(target, this::writeTo);
  }

  /**
   * Adds a tensor that is asked for in pieces while the file is written, so that it need not fit
   * into memory a second time.
   *
   * @param name its name, new to this writer and not {@code "__metadata__"}
   * @param dtype its data type
   * @param shape its dimensions; empty for a scalar
   * @param elements their number
   * @param source gives the elements, piece by piece in order
   * @return this writer
   * @throws IllegalArgumentException if the name is taken or the number of elements does not fit
   */
  public SafetensorsWriter add(
      String name, Dtype dtype, long[] shape, long elements, Source source) {
    if (name.equals(SafetensorsHeader.METADATA) || entries.containsKey(name)) {
      throw new IllegalArgumentException("name must be new and not reserved, got '" + name + "'");
    }
    long end = dataBytes + elements * dtype.bytes();
    TensorInfo tensor;
    try {
      tensor = new TensorInfo(name, dtype, shape, dataBytes, end);
    } catch (IllegalArgumentException e) {
      throw new IllegalArgumentException("tensor '" + name + "': " + e.getMessage(), e);
    }
    entries.put(name, new Entry(tensor, source));
    dataBytes = end;
    return this;
  }

  private void writeTo(FileChannel channel) throws IOException {
    writeFully(channel, ByteBuffer.wrap(header()));
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment chunk = arena.allocate(CHUNK_BYTES, ALIGNMENT);
      for (Entry entry : entries.values()) {
        int bytes = entry.tensor.dtype().bytes();
        long elements = entry.tensor.elements();
        for (long first = 0; first < elements; first += CHUNK_BYTES / bytes) {
          int count = (int) Math.min(CHUNK_BYTES / bytes, elements - first);
          entry.source.fill(chunk, first, count);
          writeFully(channel, chunk.asSlice(0, (long) count * bytes).asByteBuffer());
        }
      }
    }
  }

  /** Length and JSON, padded with spaces so that the data begin at a multiple of 8 bytes. */
  private byte[] header() throws IOException {
    ObjectNode root = JsonNodeFactory.instance.objectNode();
    if (!metadata.isEmpty()) {
      ObjectNode strings = root.putObject(SafetensorsHeader.METADATA);
      metadata.forEach(strings::put);
    }
    for (Entry entry : entries.values()) {
      TensorInfo tensor = entry.tensor;
      ObjectNode node = root.putObject(tensor.name()).put("dtype", tensor.dtype().name());
      ArrayNode shape = node.putArray("shape");
      for (long dimension : tensor.shape()) {
        shape.add(dimension);
      }
      node.putArray("data_offsets").add(tensor.begin()).add(tensor.end());
    }
    byte[] json = new ObjectMapper().writeValueAsBytes(root);
    int padded = Math.ceilDiv(json.length, ALIGNMENT) * ALIGNMENT;
    if (padded > Safetensors.MAX_HEADER_BYTES) {
      throw new IOException(
          "header must have at most %d bytes, got %d; use fewer tensors or shorter names"
              .formatted(Safetensors.MAX_HEADER_BYTES, padded));
    }
    ByteBuffer header = ByteBuffer.allocate(SafetensorsHeader.LENGTH_BYTES + padded);
    header.order(ByteOrder.LITTLE_ENDIAN).putLong(padded).put(json);
    while (header.hasRemaining()) {
      header.put((byte) ' ');
    }
    return header.array();
  }

  private static void writeFully(FileChannel channel, ByteBuffer bytes) throws IOException {
    while (bytes.hasRemaining()) {
      channel.write(bytes);
    }
  }

  private static void requireWhole(String name, Dtype dtype, long bytes) {
    if (bytes % dtype.bytes() != 0) {
      throw new IllegalArgumentException(
          "tensor '%s': data must be a multiple of the %d bytes of %s, got %d bytes"
              .formatted(name, dtype.bytes(), dtype, bytes));
    }
  }

  private static void requireFloating(String name, Dtype dtype, boolean floating) {
    if (dtype.isFloating() != floating) {
      throw new IllegalArgumentException(
          "tensor '%s': dtype must be %s for such values, got %s"
              .formatted(name, floating ? "floating" : "integer or BOOL", dtype));
    }
  }
}
