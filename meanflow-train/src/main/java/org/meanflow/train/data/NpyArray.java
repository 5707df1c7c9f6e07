package org.meanflow.train.data;

import java.io.IOException;
import java.io.InputStream;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.meanflow.nn.weights.Dtype;

/**
 * The header of an array in NumPy's format, versions 1.0 to 3.0: row-major, little endian.
 *
 * @param dtype type of the elements
 * @param shape dimensions, each ≥ 0
 * @param headerBytes where the elements begin
 * @param dataBytes how many bytes of elements the header promises
 */
record NpyArray(Dtype dtype, long[] shape, int headerBytes, long dataBytes) {
  private static final long MAGIC = 0x934e554d5059L; // "\x93NUMPY"
  private static final int MOST_HEADER_BYTES = 1 << 16;
  private static final Map<String, Dtype> TYPES =
      Map.of(
          "<f8", Dtype.F64, "<f4", Dtype.F32, "<f2", Dtype.F16, "<i8", Dtype.I64, "<i4", Dtype.I32,
          "<i2", Dtype.I16, "|i1", Dtype.I8, "|u1", Dtype.U8);
  private static final Pattern HEADER =
      Pattern.compile(
          "\\{'descr': '([^']{1,8})', 'fortran_order': (False|True), "
              + "'shape': \\(((?:[0-9]{1,15}(?:, ?|(?=\\)))){0,32})\\),? *\\}\\s*");

  private static final String RESAVE = "save it again with numpy.save";

  /** An array and its elements. */
  record Data(Dtype dtype, long[] shape, MemorySegment values) {}

  /** Reads a header from a stream and leaves it at the first element. */
  static NpyArray read(String file, InputStream in) throws IOException {
    byte[] start = in.readNBytes(8);
    if (start.length < 8 || ByteBuffer.wrap(start).getLong() >>> 16 != MAGIC) {
      throw new DataException(DataException.at(file, 0), "it does not begin as .npy", RESAVE);
    }
    int major = start[6];
    if (major < 1 || major > 3) {
      throw new DataException(
          DataException.at(file, 6), "the version must be 1, 2 or 3, got " + major, RESAVE);
    }
    int lengthBytes = major == 1 ? Short.BYTES : Integer.BYTES;
    byte[] size = Arrays.copyOf(in.readNBytes(lengthBytes), Integer.BYTES);
    int length = ByteBuffer.wrap(size).order(ByteOrder.LITTLE_ENDIAN).getInt();
    if (length < 0 || length > MOST_HEADER_BYTES) {
      throw new DataException(
          DataException.at(file, 8),
          "a header must have at most %d bytes, got %s"
              .formatted(MOST_HEADER_BYTES, Integer.toUnsignedString(length)),
          RESAVE);
    }
    byte[] text = in.readNBytes(length);
    int start1 = 8 + lengthBytes;
    if (text.length < length) {
      throw new DataException(
          DataException.at(file, start1 + text.length), "it breaks off in its header", RESAVE);
    }
    return parse(file, start1, new String(text, StandardCharsets.ISO_8859_1));
  }

  private static NpyArray parse(String file, int start, String text) throws DataException {
    Matcher header = HEADER.matcher(text);
    Dtype dtype = header.matches() ? TYPES.get(header.group(1)) : null;
    if (dtype == null || header.group(2).equals("True")) {
      String shown = text.replaceAll("[^ -~]", "?").strip();
      throw new DataException(
          DataException.at(file, start),
          "elements must be row-major and little endian, of type "
              + String.join(", ", TYPES.keySet().stream().sorted().toList())
              + ", got "
              + shown.substring(0, Math.min(120, shown.length())),
          RESAVE);
    }
    long[] shape =
        Pattern.compile(",")
            .splitAsStream(header.group(3))
            .map(String::strip)
            .filter(each -> !each.isEmpty())
            .mapToLong(Long::parseLong)
            .toArray();
    long bytes = dtype.bytes();
    for (long each : shape) {
      if (each > 0 && bytes > Long.MAX_VALUE / each) {
        throw new DataException(
            DataException.at(file, start),
            "the shape %s is too large".formatted(Arrays.toString(shape)),
            RESAVE);
      }
      bytes *= each;
    }
    return new NpyArray(dtype, shape, start + text.length(), bytes);
  }

  /**
   * Reads an array from a stream that ends with it.
   *
   * @param limit how many bytes of elements there may be
   */
  static Data readAll(String file, InputStream in, long limit) throws IOException {
    NpyArray header = read(file, in);
    if (header.dataBytes > Math.min(limit, Integer.MAX_VALUE - 8)) {
      throw new DataException(
          file,
          "%s %s does not fit in memory".formatted(header.dtype, Arrays.toString(header.shape)),
          "use smaller shards, .npy or safetensors, or give the JVM more with -Xmx");
    }
    byte[] values = in.readNBytes((int) header.dataBytes); // memory grows with what is there
    header.requireLength(file, values.length + (in.read() < 0 ? 0L : 1L));
    return new Data(header.dtype, header.shape, MemorySegment.ofArray(values));
  }

  /** The array of a mapped file. */
  Data map(String file, MemorySegment all) throws DataException {
    requireLength(file, all.byteSize() - headerBytes);
    return new Data(dtype, shape, all.asSlice(headerBytes));
  }

  private void requireLength(String file, long found) throws DataException {
    if (found < dataBytes) {
      throw new DataException(
          DataException.at(file, headerBytes + found),
          "it breaks off after %d of %d bytes of elements".formatted(found, dataBytes),
          RESAVE);
    }
    if (found > dataBytes) {
      throw new DataException(
          DataException.at(file, headerBytes + dataBytes),
          "bytes follow where the array should end",
          RESAVE);
    }
  }
}
