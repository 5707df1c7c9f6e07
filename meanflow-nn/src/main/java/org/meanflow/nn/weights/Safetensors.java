package org.meanflow.nn.weights;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.channels.FileChannel;
import java.nio.channels.FileChannel.MapMode;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.Map;

/**
 * A safetensors file, memory-mapped: named tensors without copying, whatever the size of the file.
 *
 * <p>Layout: the header's length N as an unsigned 64-bit integer; N bytes of UTF-8 JSON, {@code
 * {name: {"dtype", "shape", "data_offsets": [begin, end]}}} and an optional {@code "__metadata__"}
 * of strings; then the data, row-major, offsets counted from byte 8 + N. All little endian. {@link
 * #open} checks everything that the header says, so that what can be read afterwards is sound.
 *
 * <p>May be used by several threads. Segments handed out die with {@link #close}. The file must not
 * be truncated while it is open; {@link SafetensorsWriter} replaces a file without doing so.
 *
 * @see <a href="https://github.com/huggingface/safetensors#format">The format</a>
 */
public final class Safetensors implements AutoCloseable {

  /** The longest header allowed, in bytes; the limit of the reference implementation. */
  static final long MAX_HEADER_BYTES = 100_000_000;

  private final Path file;
  private final Arena arena;
  private final MemorySegment data;
  private final long dataStart;
  private final SafetensorsHeader header;

  private Safetensors(Path file, Arena arena) throws IOException {
    this.file = file;
    this.arena = arena;
    if (Files.isDirectory(file)) {
      throw new SafetensorsException(
          file, 0, "it is a directory", "name a .safetensors file in it");
    }
    MemorySegment all;
    try (FileChannel channel = FileChannel.open(file)) {
      all = channel.map(MapMode.READ_ONLY, 0, channel.size(), arena);
    }
    this.dataStart = SafetensorsHeader.LENGTH_BYTES + headerBytes(all);
    MemorySegment json =
        all.asSlice(SafetensorsHeader.LENGTH_BYTES, dataStart - SafetensorsHeader.LENGTH_BYTES);
    this.data = all.asSlice(dataStart);
    this.header =
        SafetensorsHeader.parse(file, json.toArray(ValueLayout.JAVA_BYTE), data.byteSize());
  }

  /**
   * Maps and checks a file.
   *
   * @param file the file
   * @return the open file, to be closed
   * @throws SafetensorsException if it is damaged or no safetensors file
   * @throws IOException if it cannot be read
   */
  public static Safetensors open(Path file) throws IOException {
    Arena arena = Arena.ofShared();
    try {
      return new Safetensors(file, arena);
    } catch (Throwable failure) {
      arena.close();
      throw failure;
    }
  }

  private long headerBytes(MemorySegment all) throws SafetensorsException {
    if (all.byteSize() < SafetensorsHeader.LENGTH_BYTES) {
      throw new SafetensorsException(
          file,
          0,
          "%d bytes are too few for the 8-byte header length".formatted(all.byteSize()),
          "the file was cut off or is no safetensors file: download or save it again");
    }
    long bytes = all.get(Dtype.LONG, 0);
    if (bytes < 0 || bytes > MAX_HEADER_BYTES) {
      throw new SafetensorsException(
          file,
          0,
          "header length %s exceeds the limit of %d bytes"
              .formatted(Long.toUnsignedString(bytes), MAX_HEADER_BYTES),
          "the file is damaged or no safetensors file: save it again");
    }
    if (bytes > all.byteSize() - SafetensorsHeader.LENGTH_BYTES) {
      throw new SafetensorsException(
          file,
          0,
          "header length %d exceeds the %d bytes of the file".formatted(bytes, all.byteSize()),
          "the file was cut off or is no safetensors file: download or save it again");
    }
    return bytes;
  }

  /** {@return the tensors by name, in the order of the header; unmodifiable} */
  public Map<String, TensorInfo> tensors() {
    return header.tensors();
  }

  /** {@return the strings of {@code __metadata__}, in the order of the header; unmodifiable} */
  public Map<String, String> metadata() {
    return header.metadata();
  }

  /**
   * The bytes of a tensor.
   *
   * @param name a name out of {@link #tensors()}
   * @return a read-only view of the mapped file, row-major and little endian, of any alignment;
   *     valid until {@link #close}
   * @throws SafetensorsException if there is no such tensor
   */
  public MemorySegment data(String name) throws SafetensorsException {
    return data(tensor(name));
  }

  /**
   * A floating-point tensor as float32: exact from F32, F16 and BF16, rounded to nearest from F64.
   *
   * @param name a name out of {@link #tensors()}
   * @return a new array, row-major
   * @throws SafetensorsException if there is no such tensor, its type is not a floating one, or it
   *     has more elements than an array can hold
   */
  public float[] floats(String name) throws SafetensorsException {
    TensorInfo tensor = array(name, true);
    MemorySegment data = data(tensor);
    if (tensor.dtype() == Dtype.F32) {
      return data.toArray(Dtype.FLOAT);
    }
    float[] values = new float[(int) tensor.elements()];
    for (int i = 0; i < values.length; i++) {
      values[i] = (float) tensor.dtype().getFloating(data, i);
    }
    return values;
  }

  /**
   * A floating-point tensor as float64, exact.
   *
   * @param name a name out of {@link #tensors()}
   * @return a new array, row-major
   * @throws SafetensorsException as for {@link #floats}
   */
  public double[] doubles(String name) throws SafetensorsException {
    TensorInfo tensor = array(name, true);
    MemorySegment data = data(tensor);
    if (tensor.dtype() == Dtype.F64) {
      return data.toArray(Dtype.DOUBLE);
    }
    double[] values = new double[(int) tensor.elements()];
    for (int i = 0; i < values.length; i++) {
      values[i] = tensor.dtype().getFloating(data, i);
    }
    return values;
  }

  /**
   * An integer tensor, exact; booleans are 0 and 1.
   *
   * @param name a name out of {@link #tensors()}
   * @return a new array, row-major
   * @throws SafetensorsException if there is no such tensor, its type is a floating one, or it has
   *     more elements than an array can hold
   */
  public long[] longs(String name) throws SafetensorsException {
    TensorInfo tensor = array(name, false);
    MemorySegment data = data(tensor);
    long[] values = new long[(int) tensor.elements()];
    for (int i = 0; i < values.length; i++) {
      values[i] = tensor.dtype().getInteger(data, i);
    }
    return values;
  }

  /** Unmaps the file. */
  @Override
  public void close() {
    arena.close();
  }

  private MemorySegment data(TensorInfo tensor) {
    return data.asSlice(tensor.begin(), tensor.end() - tensor.begin());
  }

  private TensorInfo tensor(String name) throws SafetensorsException {
    TensorInfo tensor = tensors().get(name);
    if (tensor == null) {
      throw new SafetensorsException(
          file,
          SafetensorsHeader.LENGTH_BYTES,
          "no tensor '" + name + "' among " + tensors().size(),
          tensors().isEmpty() ? "the file is empty" : "the nearest names are " + nearest(name));
    }
    return tensor;
  }

  private TensorInfo array(String name, boolean floating) throws SafetensorsException {
    TensorInfo tensor = tensor(name);
    if (tensor.dtype().isFloating() != floating) {
      throw new SafetensorsException(
          file,
          dataStart + tensor.begin(),
          "tensor '%s' is %s, not %s"
              .formatted(name, tensor.dtype(), floating ? "floating-point" : "integer"),
          floating ? "read it with longs()" : "read it with floats() or doubles()");
    }
    if (tensor.elements() > Integer.MAX_VALUE - 8) {
      throw new SafetensorsException(
          file,
          dataStart + tensor.begin(),
          "tensor '%s' has %d elements, too many for an array".formatted(name, tensor.elements()),
          "read it with data()");
    }
    return tensor;
  }

  private List<String> nearest(String name) {
    return tensors().keySet().stream()
        .sorted(Comparator.comparingInt(candidate -> editDistance(name, candidate)))
        .limit(3)
        .map(candidate -> "'" + candidate + "'")
        .toList();
  }

  /** Levenshtein distance: how many characters to insert, delete or replace. */
  private static int editDistance(String a, String b) {
    int[] row = new int[b.length() + 1];
    for (int j = 0; j <= b.length(); j++) {
      row[j] = j;
    }
    for (int i = 1; i <= a.length(); i++) {
      int diagonal = row[0];
      row[0] = i;
      for (int j = 1; j <= b.length(); j++) {
        int replaced = diagonal + (a.charAt(i - 1) == b.charAt(j - 1) ? 0 : 1);
        diagonal = row[j];
        row[j] = Math.min(replaced, 1 + Math.min(row[j], row[j - 1]));
      }
    }
    return row[b.length()];
  }
}
