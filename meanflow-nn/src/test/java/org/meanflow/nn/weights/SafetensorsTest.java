package org.meanflow.nn.weights;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.EnumSource.Mode;
import org.junit.jupiter.params.provider.MethodSource;

class SafetensorsTest {
  private static final String F32 = "{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}";

  @TempDir Path directory;

  @ParameterizedTest
  @EnumSource(
      mode = Mode.INCLUDE,
      names = {"F64", "F32", "F16", "BF16"})
  void floatingTypesComeBack(Dtype dtype) throws IOException {
    // All are exact in every floating type: at most 8 significant bits, exponents within F16.
    double[] values = {0, -0.0, 1, -1.5, 0.0078125, 255, 1 / 0.0, -1 / 0.0, 0 / 0.0, 0x1p-14};
    float[] singles = new float[values.length];
    IntStream.range(0, values.length).forEach(i -> singles[i] = (float) values[i]);
    Path path = directory.resolve("floating.safetensors");

    new SafetensorsWriter()
        .add("doubles", dtype, new long[] {2, 5}, values)
        .add("floats", dtype, new long[] {5, 2}, singles)
        .write(path);

    try (Safetensors file = Safetensors.open(path)) {
      assertThat(file.tensors().keySet()).containsExactly("doubles", "floats");
      for (String name : file.tensors().keySet()) {
        assertThat(file.doubles(name)).containsExactly(values);
        assertThat(file.floats(name)).containsExactly(singles);
      }
      assertThat(file.tensors().get("floats").shape()).containsExactly(5, 2);
      assertThat(file.tensors().get("floats").dtype()).isEqualTo(dtype);
    }
  }

  @ParameterizedTest
  @EnumSource(
      mode = Mode.EXCLUDE,
      names = {"F64", "F32", "F16", "BF16"})
  void integerTypesComeBack(Dtype dtype) throws IOException {
    int bits = 8 * dtype.bytes();
    long[] values =
        switch (dtype) {
          case BOOL -> new long[] {0, 1, 1};
          case U8 -> new long[] {0, 127, 255};
          default -> new long[] {-1L << bits - 1, -1, ~(-1L << bits - 1)};
        };
    Path path = directory.resolve("integer.safetensors");

    new SafetensorsWriter().add("values", dtype, new long[] {3}, values).write(path);

    try (Safetensors file = Safetensors.open(path)) {
      assertThat(file.longs("values")).containsExactly(values);
    }
  }

  @Test
  void halfPrecisionRoundsToNearestEven() throws IOException {
    // BF16 has 8 significant bits: 1 + 2⁻⁸ is a tie between 1 and 1 + 2⁻⁷, 1 + 3·2⁻⁸ between
    // 1 + 2⁻⁷ and 1 + 2⁻⁶; F16 has 11 significant bits.
    double[] values = {1 + 0x1p-8, 1 + 3 * 0x1p-8, 1 + 0x1p-11, 1 + 3 * 0x1p-11, 1e30};
    long[] shape = {values.length};
    Path path = directory.resolve("half.safetensors");
    new SafetensorsWriter()
        .add("bf16", Dtype.BF16, shape, values)
        .add("f16", Dtype.F16, shape, values)
        .write(path);
    try (Safetensors file = Safetensors.open(path)) {
      assertThat(Arrays.copyOf(file.doubles("bf16"), 4)).containsExactly(1, 1 + 0x1p-6, 1, 1);
      assertThat(file.doubles("f16"))
          .containsExactly(1 + 0x1p-8, 1 + 3 * 0x1p-8, 1, 1 + 0x1p-9, Double.POSITIVE_INFINITY);
    }
  }

  @Test
  void scalarsEmptyTensorsMetadataAndOrderSurvive() throws IOException {
    Path path = directory.resolve("sub/directory/odd.safetensors");
    new SafetensorsWriter()
        .metadata("format", "pt")
        .metadata("note", "ünïcode \"quoted\"")
        .add("z", Dtype.U8, new long[] {3}, new long[] {1, 2, 3})
        .add("empty", Dtype.F32, new long[] {4, 0, 2}, new float[0])
        .add("a.scalar", Dtype.F64, new long[0], new double[] {Math.PI})
        .write(path);
    try (Safetensors file = Safetensors.open(path)) {
      assertThat(file.metadata())
          .containsEntry("format", "pt")
          .containsEntry("note", "ünïcode \"quoted\"");
      assertThat(file.tensors().keySet()).containsExactly("z", "empty", "a.scalar");
      assertThat(file.tensors().get("empty"))
          .isEqualTo(new TensorInfo("empty", Dtype.F32, new long[] {4, 0, 2}, 3, 3));
      assertThat(file.floats("empty")).isEmpty();
      assertThat(file.tensors().get("a.scalar").elements()).isEqualTo(1);
      assertThat(file.doubles("a.scalar")).containsExactly(Math.PI);
      assertThat(file.data("z").isReadOnly()).isTrue();
      assertThat(file.data("z").toArray(ValueLayout.JAVA_BYTE)).containsExactly(1, 2, 3);
    }
    assertThat(headerBytes(path) % 8).isZero();
  }

  @Test
  void tensorsLongerThanAChunkAreStreamed() throws IOException {
    float[] floats = new float[(1 << 20) + 7];
    IntStream.range(0, floats.length).forEach(i -> floats[i] = i);
    Path path = directory.resolve("long.safetensors");
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment data = arena.allocate(4L * floats.length);
      MemorySegment.copy(floats, 0, data, Dtype.FLOAT, 0, floats.length);
      new SafetensorsWriter()
          .add("segment", Dtype.F32, new long[] {floats.length}, data)
          .add("floats", Dtype.F32, new long[] {floats.length}, floats)
          .write(path);
    }
    try (Safetensors file = Safetensors.open(path)) {
      assertThat(file.floats("segment")).isEqualTo(floats);
      assertThat(file.data("floats").mismatch(file.data("segment"))).isEqualTo(-1);
    }
  }

  /** As if it were too large to be in memory as a whole. */
  @Test
  void aTensorIsAskedForInPieces() throws IOException {
    Path path = directory.resolve("pieces.safetensors");
    long elements = 700_001;
    List<Long> asked = new ArrayList<>();
    new SafetensorsWriter()
        .add(
            "x",
            Dtype.F32,
            new long[] {elements},
            elements,
            (chunk, first, count) -> {
              assertThat(chunk.byteSize()).isLessThanOrEqualTo(1 << 20);
              asked.add(first);
              for (int i = 0; i < count; i++) {
                chunk.set(Dtype.FLOAT, 4L * i, first + i);
              }
            })
        .write(path);
    assertThat(asked).containsExactly(0L, 262_144L, 524_288L);
    try (Safetensors file = Safetensors.open(path)) {
      float[] values = file.floats("x");
      for (int i = 0; i < elements; i++) {
        assertThat(values[i]).isEqualTo(i);
      }
    }
  }

  @Test
  void writerRefusesWhatTheFormatCannotHold() {
    SafetensorsWriter writer = new SafetensorsWriter();
    long[] two = {2};
    writer.add("taken", Dtype.F32, two, new float[2]);
    assertThatThrownBy(() -> writer.add("taken", Dtype.F32, two, new float[2]))
        .hasMessageContaining("name must be new and not reserved, got 'taken'");
    assertThatThrownBy(() -> writer.add("__metadata__", Dtype.F32, two, new float[2]))
        .hasMessageContaining("'__metadata__'");
    assertThatThrownBy(() -> writer.add("x", Dtype.F32, two, new float[3]))
        .hasMessageContaining("tensor 'x': data_offsets must span the 8 bytes of F32 [2]");
    assertThatThrownBy(() -> writer.add("x", Dtype.F32, new long[] {-1}, new float[1]))
        .hasMessageContaining("shape must have dimensions >= 0, got [-1]");
    assertThatThrownBy(() -> writer.add("x", Dtype.I8, two, new long[] {127, 128}))
        .hasMessageContaining("element 1 must fit I8, got 128");
    assertThatThrownBy(() -> writer.add("x", Dtype.I8, two, new float[2]))
        .hasMessageContaining("dtype must be floating for such values, got I8");
    assertThatThrownBy(() -> writer.add("x", Dtype.F32, two, new long[2]))
        .hasMessageContaining("dtype must be integer or BOOL for such values, got F32");
    assertThatThrownBy(() -> writer.add("x", Dtype.F32, two, MemorySegment.ofArray(new byte[9])))
        .hasMessageContaining("multiple of the 4 bytes of F32, got 9");
  }

  @Test
  void failedWriteLeavesTheOldFileAndNoTemporary() throws IOException {
    Path path = directory.resolve("kept.safetensors");
    Files.writeString(path, "old");
    MemorySegment closed;
    try (Arena arena = Arena.ofConfined()) {
      closed = arena.allocate(8);
    }
    SafetensorsWriter writer = new SafetensorsWriter().add("x", Dtype.F32, new long[] {2}, closed);

    assertThatThrownBy(() -> writer.write(path)).isInstanceOf(IllegalStateException.class);

    assertThat(path).hasContent("old");
    try (Stream<Path> files = Files.list(directory)) {
      assertThat(files).containsExactly(path);
    }
  }

  @Test
  void unwritablePlacesAreNamed() throws IOException {
    Path file = Files.writeString(directory.resolve("file"), "");
    SafetensorsWriter writer = new SafetensorsWriter();
    assertThatThrownBy(() -> writer.write(file.resolve("x.safetensors")))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("cannot write " + file.resolve("x.safetensors"))
        .hasMessageContaining("choose another place");
    assertThatThrownBy(() -> writer.write(directory))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("it is a directory");
  }

  @Test
  void wrongRequestsAreExplained() throws IOException {
    Path path = directory.resolve("names.safetensors");
    new SafetensorsWriter()
        .add("blocks.0.attn.qkv.weight", Dtype.F32, new long[] {1}, new float[1])
        .add("blocks.0.attn.qkv.bias", Dtype.F32, new long[] {1}, new float[1])
        .add("label", Dtype.I64, new long[] {1}, new long[1])
        .write(path);
    try (Safetensors file = Safetensors.open(path)) {
      assertThatThrownBy(() -> file.data("blocks.0.attn.qkv.wieght"))
          .isInstanceOf(SafetensorsException.class)
          .hasMessageContaining("no tensor 'blocks.0.attn.qkv.wieght' among 3")
          .hasMessageContaining("nearest names are ['blocks.0.attn.qkv.weight', ");
      assertThatThrownBy(() -> file.floats("label"))
          .isInstanceOf(SafetensorsException.class)
          .hasMessageContaining("tensor 'label' is I64, not floating-point; read it with longs()");
      assertThatThrownBy(() -> file.longs("blocks.0.attn.qkv.bias"))
          .isInstanceOf(SafetensorsException.class)
          .hasMessageContaining("is F32, not integer");
    }
    assertThatThrownBy(() -> Safetensors.open(directory))
        .isInstanceOf(SafetensorsException.class)
        .hasMessageContaining("it is a directory");
  }

  static Stream<Arguments> damagedFiles() {
    String x = "{\"x\":" + F32;
    return Stream.of(
        damaged("shorter than a length", new byte[5], "byte 0: 5 bytes are too few"),
        damaged("header over the cap", length(100_000_001), "exceeds the limit of 100000000"),
        damaged("header length unsigned", length(-1), "18446744073709551615 exceeds the limit"),
        damaged("header over the file", length(9), "header length 9 exceeds the 8 bytes"),
        damaged("empty header", length(0), "byte 8: header must be a JSON object"),
        damaged("no object", file("[]", 0), "byte 8: header must be a JSON object"),
        damaged(
            "leading space", file(" {}", 0), "header must be a JSON object, beginning with '{'"),
        damaged("no JSON", file("{\"x\":,}", 0), "byte 13: header is not valid JSON"),
        damaged("cut JSON", file("{\"x\":{\"dtype\"", 0), "header is not valid JSON"),
        damaged("text after JSON", file("{} {}", 0), "header must end with its JSON object"),
        damaged("UTF-16", file("{\0}\0", 0), "header is not valid JSON"),
        damaged("deep", file("{\"x\":" + "[".repeat(100_000), 0), "header is not valid JSON"),
        damaged("bad UTF-8", badUtf8(), "byte 10: header is not valid UTF-8"),
        damaged("duplicate", file(x + ",\"x\":" + F32 + "}", 8), "Duplicate field 'x'"),
        damaged("duplicate field", entry("\"dtype\":\"F32\",\"dtype\":\"F32\""), "Duplicate field"),
        damaged("entry no object", file("{\"x\":3}", 8), "tensor 'x': must be an object, got 3"),
        damaged(
            "unknown dtype", with("\"F32\"", "\"F7\""), "byte 9: tensor 'x': dtype must be one"),
        damaged("dtype no string", with("\"F32\"", "32"), "dtype must be one of"),
        damaged("dtype missing", with("\"dtype\"", "\"type\""), "got nothing"),
        damaged("shape missing", with("\"shape\"", "\"form\""), "shape must be an array"),
        damaged("shape fractional", with("[2]", "[2.0]"), "shape must be an array of 64-bit"),
        damaged("shape null", with("[2]", "null"), "shape must be an array of 64-bit integers"),
        damaged("negative dimension", with("[2]", "[-2]"), "shape must have dimensions >= 0"),
        damaged("dimension over 64 bits", with("[2]", "[18446744073709551618]"), "64-bit integers"),
        damaged("product overflow", with("[2]", "[4294967296,4294967296]"), "at most 2^59"),
        damaged("bytes overflow", with("[2]", "[2305843009213693952]"), "at most 2^59 elements"),
        damaged(
            "size mismatch", with("[2]", "[3]"), "must span the 12 bytes of F32 [3], got [0, 8]"),
        damaged(
            "offsets missing", with("data_offsets", "offsets"), "data_offsets must be an array"),
        damaged("one offset", with("[0,8]", "[8]"), "data_offsets must be [begin, end], got [8]"),
        damaged("offset of text", with("[0,8]", "[0,\"8\"]"), "data_offsets must be an array"),
        damaged("negative offset", with("[0,8]", "[-8,0]"), "0 <= begin <= end, got [-8, 0]"),
        damaged("offsets reversed", with("[0,8]", "[8,0]"), "0 <= begin <= end, got [8, 0]"),
        damaged(
            "past the end", file(x + "}", 7), "[0, 8] reach past the 7 bytes of data; the file"),
        damaged("rest", file(x + "}", 9), "1 bytes follow the last tensor"),
        damaged("data without tensors", file("{}", 1), "1 bytes follow the last tensor"),
        damaged("hole", with("[0,8]", "[4,12]"), "[4, 12] leave a hole in the data after 0"),
        damaged(
            "overlap",
            file(x + ",\"y\":" + F32.replace("[0,8]", "[4,12]") + "}", 12),
            "tensor 'y': data_offsets [4, 12] overlap the tensor that ends at 8"),
        damaged("metadata", file("{\"__metadata__\":[]}", 0), "__metadata__: must be an object"),
        damaged(
            "metadata value",
            file("{\"__metadata__\":{\"step\":7}}", 0),
            "__metadata__: 'step' must be a string, got 7"));
  }

  @ParameterizedTest(name = "{0}")
  @MethodSource("damagedFiles")
  void damageIsNamed(String what, byte[] bytes, String message) throws IOException {
    Path path = Files.write(directory.resolve("damaged.safetensors"), bytes);
    assertThatThrownBy(() -> Safetensors.open(path).close())
        .as(what)
        .isInstanceOf(SafetensorsException.class)
        .hasMessageStartingWith(path + ": byte ")
        .hasMessageContaining(message)
        .hasMessageContaining("; ");
  }

  /** Each of a thousand damaged copies is either refused properly or still readable throughout. */
  @Test
  void mutationsAreRefusedOrRead() throws IOException {
    Path path = directory.resolve("mutated.safetensors");
    new SafetensorsWriter()
        .metadata("format", "pt")
        .add("weight", Dtype.F32, new long[] {3, 4}, new float[12])
        .add("half", Dtype.BF16, new long[] {5}, new float[5])
        .add("label", Dtype.I64, new long[] {2}, new long[] {3, 4})
        .add("scalar", Dtype.F64, new long[0], new double[] {1})
        .write(path);
    byte[] sound = Files.readAllBytes(path);
    Random random = new Random(20250519);
    int refused = 0;
    for (int mutation = 0; mutation < 1000; mutation++) {
      Files.write(path, mutate(sound, random));
      try (Safetensors file = Safetensors.open(path)) {
        for (TensorInfo tensor : file.tensors().values()) {
          long read =
              tensor.dtype().isFloating()
                  ? file.doubles(tensor.name()).length + file.floats(tensor.name()).length
                  : 2L * file.longs(tensor.name()).length;
          assertThat(read).isEqualTo(2 * tensor.elements());
        }
      } catch (SafetensorsException e) {
        assertThat(e).hasMessageStartingWith(path + ": byte ");
        refused++;
      }
    }
    assertThat(refused).isBetween(300, 999);
  }

  private static byte[] mutate(byte[] sound, Random random) {
    byte[] bytes = sound.clone();
    int header = 8 + (int) ByteBuffer.wrap(sound).order(ByteOrder.LITTLE_ENDIAN).getLong();
    switch (random.nextInt(5)) {
      case 0 -> bytes = Arrays.copyOf(bytes, random.nextInt(bytes.length));
      case 1 -> bytes = Arrays.copyOf(bytes, bytes.length + 1 + random.nextInt(20));
      case 2 -> bytes[random.nextInt(bytes.length)] ^= (byte) (1 << random.nextInt(8));
      case 3 -> {
        // A digit, bracket or quote where another character of the header was.
        String hostile = "0123456789-[]{}\",:eE.\\ \u0000";
        bytes[8 + random.nextInt(header - 8)] =
            (byte) hostile.charAt(random.nextInt(hostile.length()));
      }
      default -> ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).putLong(random.nextLong());
    }
    return bytes;
  }

  private static Arguments damaged(String what, byte[] bytes, String message) {
    return Arguments.of(what, bytes, message);
  }

  /** A file with the tensor {@code x} in which one part of its entry is replaced. */
  private static byte[] with(String part, String replacement) {
    return file("{\"x\":" + F32.replace(part, replacement) + "}", 12);
  }

  private static byte[] entry(String fields) {
    return file("{\"x\":{" + fields + "}}", 8);
  }

  private static byte[] file(String header, int dataBytes) {
    byte[] json = header.getBytes(StandardCharsets.UTF_8);
    return ByteBuffer.allocate(8 + json.length + dataBytes)
        .order(ByteOrder.LITTLE_ENDIAN)
        .putLong(json.length)
        .put(json)
        .array();
  }

  private static byte[] length(long header) {
    return ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putLong(header).array();
  }

  private static byte[] badUtf8() {
    byte[] bytes = file("{\"x\":1}", 0);
    bytes[10] = (byte) 0xFF;
    return bytes;
  }

  private static long headerBytes(Path path) throws IOException {
    return ByteBuffer.wrap(Files.readAllBytes(path)).order(ByteOrder.LITTLE_ENDIAN).getLong();
  }
}
