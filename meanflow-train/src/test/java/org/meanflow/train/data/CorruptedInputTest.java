package org.meanflow.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assertions.assertTimeoutPreemptively;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import java.util.zip.CRC32;
import java.util.zip.DeflaterOutputStream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.meanflow.nn.weights.Dtype;
import org.meanflow.nn.weights.SafetensorsException;
import org.meanflow.nn.weights.SafetensorsWriter;
import org.meanflow.train.recipe.Recipe;
import org.meanflow.train.recipe.RecipeException;
import org.nd4j.linalg.api.buffer.DataType;

/**
 * Damaged and hostile files of every format that is read: cut off, with flipped bits, with other
 * sizes, and made on purpose. Each is either refused in one line that names the file, or read as
 * what it now says; quickly, in little memory, and without a change on disk.
 */
@Timeout(value = 120, unit = TimeUnit.SECONDS)
class CorruptedInputTest {
  /**
   * What reading one small file may allocate. Decoding takes buffers of up to some hundred
   * kilobytes and the first use of a reader loads its classes; a header that is believed before its
   * data have been seen takes a gigabyte.
   */
  private static final long MOST_ALLOCATED = 64L << 20;

  private static final int BIT_FLIPS = 24;
  private static final Map<String, int[]> COUNTS = new LinkedHashMap<>();

  @TempDir Path directory;

  /** A file and what was done to it. */
  private record Damage(String what, byte[] bytes) {}

  /** The values of all images of a data set, or a recipe as text. */
  private record Content(List<double[]> images, String text) {
    boolean sameAs(Content that) {
      boolean same = images.size() == that.images.size() && text.equals(that.text);
      for (int i = 0; same && i < images.size(); i++) {
        same = Arrays.equals(images.get(i), that.images.get(i));
      }
      return same;
    }
  }

  private enum Format {
    IDX("images") {
      @Override
      byte[] valid() {
        return Idx.images(5, 6, 4);
      }

      @Override
      Content read(Path file) throws IOException {
        return images(IdxDataset.read(DataSource.file(file)));
      }

      @Override
      Content expected(byte[] bytes, Content original) {
        return raw(bytes, 16, 24, 24);
      }

      @Override
      void hostile(List<Damage> list) {
        list.add(new Damage("promises 2^31 - 1 images", Idx.file(0x803, new byte[24], MAX, 6, 4)));
        list.add(new Damage("promises 2^93 bytes", Idx.file(0x803, new byte[24], MAX, MAX, MAX)));
        list.add(new Damage("promises 1 GiB", Idx.file(0x803, new byte[24], 1 << 20, 32, 32)));
        list.add(new Damage("negative size", Idx.file(0x803, new byte[24], 1, -6, -4)));
        list.add(new Damage("no images", Idx.file(0x803, new byte[0], 0, 6, 4)));
        list.add(new Damage("labels", Idx.labels(1, 2, 3)));
      }
    },
    IDX_GZ("images.gz") {
      @Override
      byte[] valid() {
        return Idx.gzip(Idx.images(5, 6, 4));
      }

      @Override
      Content read(Path file) throws IOException {
        return images(IdxDataset.read(DataSource.file(file)));
      }

      @Override
      void hostile(List<Damage> list) {
        byte[] bomb = Idx.gzip(Arrays.copyOf(Idx.images(5, 6, 4), 100 << 20));
        list.add(new Damage("unpacks to 100 MiB", bomb));
        byte[] promise = Idx.file(0x803, new byte[24], MAX, 6, 4);
        list.add(new Damage("promises 2^31 - 1 images", Idx.gzip(promise)));
        list.add(new Damage("gzip in gzip", Idx.gzip(valid())));
      }
    },
    CIFAR("data_batch_1.bin") {
      @Override
      byte[] valid() {
        byte[] bytes = new byte[4 * 3073];
        for (int i = 0; i < bytes.length; i++) {
          bytes[i] = i % 3073 == 0 ? (byte) (i / 3073) : Idx.pixel(i);
        }
        return bytes;
      }

      @Override
      Content read(Path file) throws IOException {
        return images(CifarDataset.read(List.of(file), 10));
      }

      @Override
      Content expected(byte[] bytes, Content original) {
        return raw(bytes, 1, 3072, 3073);
      }

      @Override
      void hostile(List<Damage> list) {
        byte[] label = valid();
        label[3073] = 10;
        list.add(new Damage("label 10", label));
        label = valid();
        label[2 * 3073] = -1;
        list.add(new Damage("label 255", label));
        list.add(new Damage("a record less", Arrays.copyOf(valid(), 3 * 3073)));
        list.add(new Damage("a record more", Arrays.copyOf(valid(), 5 * 3073)));
        list.add(new Damage("records of CIFAR-100", Arrays.copyOf(valid(), 4 * 3074)));
      }
    },
    PNG("a/picture.png") {
      @Override
      byte[] valid() {
        return Pictures.file("png", Pictures.picture(16, 12));
      }

      @Override
      Content read(Path file) throws IOException {
        return folder(file);
      }

      @Override
      void hostile(List<Damage> list) {
        byte[] data = deflated(new byte[12 * (1 + 3 * 16)]);
        byte[] end = chunk("IEND", new byte[0]);
        int[][] sizes = {{MAX, MAX}, {-1, -1}, {0, 12}, {16, 0}, {40_000, 40_000}, {1, 1 << 25}};
        for (int[] size : sizes) {
          list.add(
              new Damage(
                  "size " + Arrays.toString(size),
                  png(header(size[0], size[1], 8, 2, 0), chunk("IDAT", data), end)));
        }
        int[][] kinds = {
          {3, 2, 0}, {0, 2, 0}, {8, 7, 0}, {8, 3, 0}, {16, 3, 0}, {8, 2, 1}, {8, 2, 9}
        };
        for (int[] kind : kinds) {
          byte[] header = header(16, 12, kind[0], kind[1], kind[2]);
          list.add(
              new Damage(
                  "depth, colours and interlacing " + Arrays.toString(kind),
                  png(header, chunk("IDAT", data), end)));
        }
        byte[] header = header(16, 12, 8, 2, 0);
        byte[] filters = new byte[12 * (1 + 3 * 16)];
        Arrays.fill(filters, (byte) 9);
        byte[] bomb = deflated(new byte[50 << 20]);
        list.add(new Damage("no data", png(header, end)));
        list.add(new Damage("empty data", png(header, chunk("IDAT", new byte[0]), end)));
        list.add(new Damage("no zlib stream", png(header, chunk("IDAT", new byte[99]), end)));
        list.add(new Damage("unknown filters", png(header, chunk("IDAT", deflated(filters)), end)));
        list.add(
            new Damage(
                "half of the data",
                png(header, chunk("IDAT", Arrays.copyOf(data, data.length / 2)), end)));
        list.add(new Damage("few rows", png(header, chunk("IDAT", deflated(new byte[99])), end)));
        list.add(new Damage("black, 50 MiB of data", png(header, chunk("IDAT", bomb), end)));
        list.add(new Damage("no header", png(chunk("IDAT", data), end)));
        list.add(new Damage("two headers", png(header, header, chunk("IDAT", data), end)));
        list.add(new Damage("no end", png(header, chunk("IDAT", data))));
        byte[] text = concat("k\0\0".getBytes(StandardCharsets.ISO_8859_1), bomb);
        list.add(
            new Damage(
                "black, a text of 50 MiB",
                png(header, chunk("zTXt", text), chunk("IDAT", data), end)));
        list.add(
            new Damage(
                "black, a broken profile",
                png(header, chunk("iCCP", text), chunk("IDAT", data), end)));
        for (int length : new int[] {MAX, -1, 1 << 30, 1000}) {
          byte[] chunk = chunk("tEXt", new byte[8]);
          ByteBuffer.wrap(chunk).putInt(length);
          list.add(
              new Damage("a chunk of " + length, png(header, chunk, chunk("IDAT", data), end)));
        }
      }
    },
    JPEG("a/picture.jpg") {
      @Override
      byte[] valid() {
        return Pictures.file("jpg", Pictures.picture(48, 32));
      }

      @Override
      Content read(Path file) throws IOException {
        return folder(file);
      }

      /** Without a checksum, flipped bits may make another picture. */
      @Override
      Content expected(byte[] bytes, Content original) {
        return null;
      }

      @Override
      void hostile(List<Damage> list) {
        byte[] valid = valid();
        int frame = find(valid, 0xffc0);
        int[][] sizes = {{0xffff, 0xffff}, {0, 48}, {32, 0}, {1, 1}, {8000, 4000}};
        for (int[] size : sizes) {
          byte[] bytes = valid.clone();
          ByteBuffer.wrap(bytes).putShort(frame + 5, (short) size[0]);
          ByteBuffer.wrap(bytes).putShort(frame + 7, (short) size[1]);
          list.add(new Damage("size " + Arrays.toString(size), bytes));
        }
        for (int marker : new int[] {0xffc0, 0xffc4, 0xffdb, 0xffda, 0xffe0}) {
          int place = find(valid, marker);
          for (int length : new int[] {0, 1, 2, 0xffff}) {
            byte[] bytes = valid.clone();
            ByteBuffer.wrap(bytes).putShort(place + 2, (short) length);
            list.add(new Damage("segment %x of %d bytes".formatted(marker, length), bytes));
          }
        }
        for (int components : new int[] {0, 1, 2, 4, 255}) {
          byte[] bytes = valid.clone();
          bytes[frame + 9] = (byte) components;
          list.add(new Damage(components + " components", bytes));
        }
        for (int kind : new int[] {0xc1, 0xc2, 0xc3, 0xc9}) {
          byte[] bytes = valid.clone();
          bytes[frame + 1] = (byte) kind;
          list.add(new Damage("frame of kind %x".formatted(kind), bytes));
        }
        list.add(new Damage("no end", Arrays.copyOf(valid, valid.length - 2)));
        list.add(new Damage("only markers", new byte[] {-1, (byte) 0xd8, -1, (byte) 0xd9}));
        byte[] fill = new byte[1000];
        Arrays.fill(fill, (byte) 0xff);
        fill[1] = (byte) 0xd8;
        list.add(new Damage("only fill bytes", fill));
      }
    },
    SAFETENSORS("latents.safetensors") {
      @Override
      byte[] valid() throws IOException {
        Path file = Files.createTempFile("valid", ".safetensors");
        try {
          new SafetensorsWriter()
              .metadata("made", "by a test")
              .add("labels", Dtype.I64, new long[] {3}, new long[] {0, 1, 2})
              .add("moments", Dtype.F32, new long[] {3, 4, 2, 2}, MOMENTS)
              .write(file);
          return Files.readAllBytes(file);
        } finally {
          Files.delete(file);
        }
      }

      @Override
      Content read(Path file) throws IOException {
        return latents(file, 3);
      }

      @Override
      Content expected(byte[] bytes, Content original) {
        // Whatever the header says, the data are the end of the file: labels first, as was written.
        return moments(bytes, bytes.length - 4 * MOMENTS.length);
      }

      @Override
      void hostile(List<Damage> list) {
        byte[] data = new byte[4 * 48 + 24];
        String labels = "\"labels\":{\"dtype\":\"I64\",\"shape\":[3],\"data_offsets\":[192,216]}";
        String fine =
            "\"moments\":{\"dtype\":\"F32\",\"shape\":[3,4,2,2],\"data_offsets\":[0,192]}";
        for (String header :
            List.of(
                "{" + fine + "}",
                "{" + labels + "," + fine.replace("moments", "latents") + "}",
                "{" + labels + "," + fine.replace("[3,4,2,2]", "[3,16]") + "}",
                "{" + labels + "," + fine.replace("[3,4,2,2]", "[3,1,4,4]") + "}",
                "{" + labels + "," + fine.replace("[3,4,2,2]", "[2,4,2,3]") + "}",
                "{" + labels + "," + fine.replace("[3,4,2,2]", "[-3,-4,2,2]") + "}",
                "{" + labels + "," + fine.replace("[3,4,2,2]", "[9e18,4,2,2]") + "}",
                "{" + labels + "," + fine.replace("[3,4,2,2]", "[4611686018427387904,4,2,2]") + "}",
                "{" + labels + "," + fine.replace("F32", "I32") + "}",
                "{" + labels + "," + fine.replace("F32", "F8_E4M3") + "}",
                "{" + labels + "," + fine.replace("192", "196") + "}",
                "{" + labels + "," + fine.replace("[0,192]", "[192,0]") + "}",
                "{" + labels + "," + fine.replace("[0,192]", "[0,9223372036854775807]") + "}",
                "{" + labels.replace("[3]", "[1,3]") + "," + fine + "}",
                "{" + labels.replace("I64", "F64") + "," + fine + "}",
                "{" + labels + "," + labels + "," + fine + "}",
                "{" + labels + "," + fine + ",\"x\":" + "[".repeat(100_000) + "}",
                "{" + labels + "," + fine + ",\"x\":" + "9".repeat(100_000) + "}",
                "[" + fine + "]",
                "")) {
          String shown = header.substring(0, Math.min(60, header.length()));
          list.add(new Damage("header " + shown, safetensors(header, data)));
        }
        byte[] wrong = safetensors("{" + labels + "," + fine + "}", data);
        wrong[wrong.length - 1] = -1;
        list.add(new Damage("a negative label", wrong));
        byte[] nan = safetensors("{" + labels + "," + fine + "}", data);
        Arrays.fill(nan, nan.length - 216, nan.length - 212, (byte) -1);
        list.add(new Damage("a latent that is NaN", nan));
        for (long length : new long[] {-1, Long.MIN_VALUE, Long.MAX_VALUE, 1L << 40, 90_000_000}) {
          byte[] bytes = safetensors("{" + labels + "," + fine + "}", data);
          ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).putLong(length);
          list.add(new Damage("header of " + length + " bytes", bytes));
        }
      }
    },
    NPZ("latents.npz") {
      @Override
      byte[] valid() {
        return npz(Npz.npy("<f4", "(3, 4, 2, 2)", Npz.floats(MOMENTS)), LABELS);
      }

      @Override
      Content read(Path file) throws IOException {
        return latents(file, 3);
      }

      @Override
      void hostile(List<Damage> list) {
        byte[] data = Npz.floats(MOMENTS);
        byte[] fine = Npz.npy("<f4", "(3, 4, 2, 2)", data);
        for (byte[] array : hostileArrays(data)) {
          list.add(new Damage("array " + shown(array), npz(array, LABELS)));
        }
        byte[] bomb = Npz.npy("<f4", "(3, 4, 2, 2)", new byte[100 << 20]);
        list.add(new Damage("unpacks to 100 MiB", npz(bomb, LABELS)));
        list.add(new Damage("no labels", Npz.zip(Map.of("moments.npy", fine))));
        list.add(new Damage("no moments", Npz.zip(Map.of("labels.npy", LABELS))));
        list.add(new Damage("no arrays", Npz.zip(Map.of())));
        list.add(new Damage("label 3", npz(fine, Npz.npy("<i8", "(3,)", Npz.longs(0, 3, 1)))));
        list.add(new Damage("label -1", npz(fine, Npz.npy("<i8", "(3,)", Npz.longs(0, -1, 1)))));
        list.add(new Damage("2 labels", npz(fine, Npz.npy("<i8", "(2,)", Npz.longs(0, 1)))));
        list.add(
            new Damage("floating labels", npz(fine, Npz.npy("<f4", "(3,)", Npz.floats(0, 1, 2)))));
        list.add(
            new Damage(
                "a text", "PK but no zip at all, only text".getBytes(StandardCharsets.UTF_8)));
      }
    },
    NPY("latents.npy") {
      @Override
      byte[] valid() {
        return Npz.npy("<f4", "(3, 4, 2, 2)", Npz.floats(MOMENTS));
      }

      @Override
      Content read(Path file) throws IOException {
        return latents(file, 0);
      }

      @Override
      Content expected(byte[] bytes, Content original) {
        return moments(bytes, bytes.length - 4 * MOMENTS.length);
      }

      @Override
      void hostile(List<Damage> list) {
        for (byte[] array : hostileArrays(Npz.floats(MOMENTS))) {
          list.add(new Damage("array " + shown(array), array));
        }
      }
    },
    YAML("recipe.yaml") {
      @Override
      byte[] valid() throws IOException {
        try (InputStream recipe =
            Recipe.class.getResourceAsStream("/org/meanflow/train/recipes/cifar10.yaml")) {
          return recipe.readAllBytes();
        }
      }

      @Override
      Content read(Path file) throws IOException {
        Recipe recipe = Recipe.load(file.toString());
        String text = recipe.toYaml();
        assertThat(Recipe.parse("again", text)).isEqualTo(recipe);
        return new Content(List.of(), text);
      }

      /** Another letter in a comment or another digit in a number make a recipe, too. */
      @Override
      Content expected(byte[] bytes, Content original) {
        return null;
      }

      @Override
      void hostile(List<Damage> list) throws IOException {
        String valid = new String(valid(), StandardCharsets.UTF_8);
        StringBuilder aliases = new StringBuilder("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for (int i = 1; i < 12; i++) {
          aliases.append(
              "a%d: &a%d [%s*a%d]\n".formatted(i, i, ("*a" + (i - 1) + ", ").repeat(9), i - 1));
        }
        for (String text :
            List.of(
                "",
                "# nothing",
                "[".repeat(20_000),
                "{a: ".repeat(20_000),
                "- ".repeat(20_000),
                "? ".repeat(20_000),
                aliases.toString(),
                valid + aliases,
                "x".repeat(60_000),
                "x".repeat(1 << 20),
                valid + " ".repeat(1 << 16),
                valid + "more: !!javax.script.ScriptEngineManager [x]\n",
                "!!java.net.URL [\"file:///\"]\n",
                "%YAML 9.9\n---\n" + valid,
                "\ufeff" + valid,
                valid.replace("\n", "\r"),
                valid.replace("  ", "\t"),
                valid + valid,
                valid.replace("steps: 200000", "steps: " + "9".repeat(5000)),
                valid.replace("steps: 200000", "steps: -9223372036854775809"),
                valid.replace("rate: 1e-4", "rate: 1e999999999"),
                valid.replace("rate: 1e-4", "rate: 1e-999999999"),
                valid.replace("rate: 1e-4", "rate: .inf"),
                valid.replace("rate: 1e-4", "rate: &x *x"),
                valid.replace("rate: 1e-4", "<<: {rate: 1}"),
                valid.replace("width: 384", "width: 0x7fffffff"),
                valid.replace("width: 384", "width: 2147483647"),
                valid.replace("heads: 6", "heads: 0"),
                valid.replace("patch: 2", "patch: 0"),
                valid.replace("images: data_batch_*.bin", "images: \"\\0\\n\\e[2J\""),
                valid.replace("format: cifar10", "format: pickle"),
                valid.replace("flip: true", "labels: all"),
                valid.replace("flip: true", "latents: {content: latents, std: [0]}"),
                valid.replace("flip: true", "latents: {content: latents, mean: [[1]]}"))) {
          String shown =
              text.substring(0, Math.min(40, text.length())).lines().findFirst().orElse("");
          list.add(new Damage("text " + shown, text.getBytes(StandardCharsets.UTF_8)));
        }
        list.add(new Damage("no UTF-8", concat(valid(), new byte[] {(byte) 0xc3, 0x28})));
        list.add(new Damage("UTF-16", valid.getBytes(StandardCharsets.UTF_16)));
      }
    };

    private static final int MAX = Integer.MAX_VALUE;
    private static final float[] MOMENTS = ramp(48);
    private static final byte[] LABELS = Npz.npy("<i8", "(3,)", Npz.longs(0, 1, 2));

    private final String fileName;

    Format(String fileName) {
      this.fileName = fileName;
    }

    abstract byte[] valid() throws IOException;

    abstract Content read(Path file) throws IOException;

    abstract void hostile(List<Damage> list) throws IOException;

    /** What a damaged file that is read must give; {@code null} for anything sound. */
    Content expected(byte[] bytes, Content original) {
      return original; // there are checksums
    }
  }

  @ParameterizedTest
  @EnumSource
  void damagedFilesAreRefusedOrReadAsWhatTheySay(Format format) throws IOException {
    byte[] valid = format.valid();
    Path file = directory.resolve(format.fileName);
    Files.createDirectories(file.getParent());
    Files.write(file, valid);
    Content original = format.read(file);
    int[] counts = COUNTS.computeIfAbsent(format.name(), name -> new int[2]);
    List<String> failures = new ArrayList<>();
    for (Damage damage : damages(format, valid)) {
      Files.write(file, damage.bytes);
      String failure = outcome(format, file, damage, original, counts);
      if (failure != null) {
        failures.add(format + ", " + damage.what + ": " + failure);
      }
      assertThat(Files.readAllBytes(file)).isEqualTo(damage.bytes);
    }
    assertThat(failures).isEmpty();
    try (Stream<Path> all = Files.walk(directory)) {
      assertThat(all.filter(Files::isRegularFile)).containsExactly(file);
    }
  }

  @AfterAll
  static void count() {
    int sum = 0;
    for (Map.Entry<String, int[]> each : COUNTS.entrySet()) {
      int[] counts = each.getValue();
      System.out.printf("%s: %d refused, %d read%n", each.getKey(), counts[0], counts[1]);
      sum += counts[0] + counts[1];
    }
    System.out.printf("%d damaged files%n", sum);
    if (COUNTS.size() == Format.values().length) { // not where one format is run alone
      assertThat(sum).isGreaterThan(400);
    }
  }

  /** Reads a damaged file; says what is wrong with the outcome, {@code null} for nothing. */
  private static String outcome(
      Format format, Path file, Damage damage, Content original, int[] counts) {
    Content[] content = new Content[1];
    Throwable[] refusal = new Throwable[1];
    long[] allocated = new long[1];
    assertTimeoutPreemptively(
        Duration.ofSeconds(20),
        () -> {
          var thread = (com.sun.management.ThreadMXBean) ManagementFactory.getThreadMXBean();
          long before = thread.getCurrentThreadAllocatedBytes();
          try {
            content[0] = format.read(file);
          } catch (Throwable e) {
            refusal[0] = e;
          }
          allocated[0] = thread.getCurrentThreadAllocatedBytes() - before;
        },
        damage.what);
    if (allocated[0] > MOST_ALLOCATED + 8L * damage.bytes.length) {
      return "allocated " + allocated[0] + " bytes";
    }
    counts[refusal[0] == null ? 1 : 0]++;
    if (refusal[0] != null) {
      boolean known =
          refusal[0] instanceof DataException
              || refusal[0] instanceof SafetensorsException
              || refusal[0] instanceof RecipeException;
      String message = String.valueOf(refusal[0].getMessage());
      boolean clear =
          message.startsWith(file.toString())
              && message.length() < file.toString().length() + 400
              && message.chars().noneMatch(c -> c < ' ');
      return known && clear ? null : refusal[0].toString();
    }
    if (damage.what.startsWith("cut off")
        && format != Format.YAML
        && damage.bytes.length % 3073 != 0) {
      return "was read although it breaks off";
    }
    if (damage.what.startsWith("black")) {
      return Arrays.stream(content[0].images.getFirst()).allMatch(value -> value == -1)
          ? null
          : "was not read as black";
    }
    Content expected = format.expected(damage.bytes, original);
    if (expected == null) {
      for (double[] image : content[0].images) {
        if (!Arrays.stream(image).allMatch(value -> value >= -1 && value <= 1)) {
          return "was read with values outside [-1, 1]";
        }
      }
      return null;
    }
    return content[0].sameAs(expected) ? null : "was read as something else";
  }

  private static List<Damage> damages(Format format, byte[] valid) throws IOException {
    Random random = new Random(format.ordinal());
    List<Damage> list = new ArrayList<>();
    for (int length : new int[] {0, 1, 3, 7, 8, 9, 17, 40, valid.length - 1, valid.length - 3}) {
      list.add(new Damage("cut off after " + length, Arrays.copyOf(valid, length)));
    }
    for (int i = 1; i < 10; i++) {
      int length = valid.length * i / 10 - 1;
      list.add(new Damage("cut off after " + length, Arrays.copyOf(valid, length)));
    }
    for (int i = 0; i < BIT_FLIPS; i++) {
      // Every other one where headers are.
      int place = random.nextInt(i % 2 == 0 ? valid.length : Math.min(64, valid.length));
      byte[] bytes = valid.clone();
      bytes[place] ^= (byte) (1 << random.nextInt(8));
      list.add(new Damage("bit flipped in byte " + place, bytes));
    }
    for (int word = 0; word < 6; word++) {
      for (byte value : new byte[] {0, 0x7f, -1}) {
        byte[] bytes = valid.clone();
        Arrays.fill(bytes, 4 * word, 4 * word + 4, value);
        list.add(
            new Damage("bytes %d to %d are %d".formatted(4 * word, 4 * word + 3, value), bytes));
      }
    }
    int middle = valid.length / 2;
    list.add(new Damage("twice", concat(valid, valid)));
    list.add(
        new Damage(
            "without its middle",
            concat(
                Arrays.copyOf(valid, middle),
                Arrays.copyOfRange(valid, middle + 5, valid.length))));
    byte[] noise = new byte[valid.length];
    random.nextBytes(noise);
    list.add(new Damage("noise", noise));
    list.add(new Damage("zeros", new byte[valid.length]));
    byte[] tail = valid.clone();
    Arrays.fill(tail, middle, tail.length, (byte) 0);
    list.add(new Damage("half of it zeros", tail));
    format.hostile(list);
    // What is as it was is not damaged.
    list.removeIf(each -> Arrays.equals(each.bytes, valid));
    return list;
  }

  private static Content images(ImageDataset dataset) throws IOException {
    try (dataset) {
      List<double[]> images = new ArrayList<>();
      for (int i = 0; i < Math.min(dataset.size(), 100); i++) {
        images.add(dataset.batch(new int[] {i}, DataType.DOUBLE).x().dup('c').data().asDouble());
      }
      return new Content(images, dataset.size() + " images");
    }
  }

  private static Content folder(Path file) throws IOException {
    return images(ImageFolderDataset.open(file.getParent().getParent(), 1, 3, 8));
  }

  private static Content latents(Path file, int classes) throws IOException {
    LatentForm form = new LatentForm(LatentForm.Content.MEAN_LOGVAR, null, null, null);
    return images(LatentDataset.open(List.of(file), form, classes));
  }

  /** Images of bytes, {@code step} apart. */
  private static Content raw(byte[] bytes, int first, int size, int step) {
    List<double[]> images = new ArrayList<>();
    for (int start = first; start + size <= bytes.length; start += step) {
      int from = start;
      images.add(
          IntStream.range(0, size)
              .mapToDouble(i -> (bytes[from + i] & 0xff) / 127.5 - 1)
              .toArray());
    }
    return new Content(images, images.size() + " images");
  }

  /** The means in moments {@code [3, 4, 2, 2]} of float32. */
  private static Content moments(byte[] bytes, int first) {
    ByteBuffer values = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
    List<double[]> images = new ArrayList<>();
    for (int i = 0; i < 3; i++) {
      int start = first + 4 * 16 * i;
      images.add(IntStream.range(0, 8).mapToDouble(j -> values.getFloat(start + 4 * j)).toArray());
    }
    return new Content(images, "3 images");
  }

  private static List<byte[]> hostileArrays(byte[] data) {
    List<byte[]> arrays = new ArrayList<>();
    for (String shape :
        List.of(
            "(3, 4, 2, 3)",
            "(3, 2, 2, 2)",
            "(3, 16)",
            "(48,)",
            "()",
            "(3, 1, 4, 4)",
            "(0, 4, 2, 2)",
            "(999999999999999, 999999999999999, 9, 9)",
            "(268435456, 4, 2, 2)",
            "(-3, -4, 2, 2)",
            "(3, 4, 2, 2",
            "3, 4, 2, 2",
            "(" + "1, ".repeat(5000) + ")",
            "(" + "9".repeat(5000) + ",)")) {
      arrays.add(Npz.npy("<f4", shape, data));
    }
    for (String type : List.of(">f4", "|O", "<c8", "<i4", "<f3", "<U4", "<f2", "<f8", "")) {
      arrays.add(Npz.npy(type, "(3, 4, 2, 2)", data));
    }
    arrays.add(Npz.npy("{'descr': '<f4', 'fortran_order': True, 'shape': (3, 4, 2, 2), }", data));
    arrays.add(
        Npz.npy("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (48,), }", data));
    arrays.add(Npz.npy("__import__('os').abort()", data));
    byte[] nan = data.clone();
    Arrays.fill(nan, 0, 4, (byte) -1);
    arrays.add(Npz.npy("<f4", "(3, 4, 2, 2)", nan));
    for (int version : new int[] {0, 2, 3, 4, 255}) {
      byte[] array = Npz.npy("<f4", "(3, 4, 2, 2)", data);
      array[6] = (byte) version; // the length of the header now has four bytes
      arrays.add(array);
    }
    byte[] longHeader = Npz.npy("<f4", "(3, 4, 2, 2)", data);
    longHeader[6] = 2;
    Arrays.fill(longHeader, 8, 12, (byte) -1);
    arrays.add(longHeader);
    return arrays;
  }

  private static String shown(byte[] array) {
    String text = new String(array, 8, Math.min(70, array.length - 8), StandardCharsets.ISO_8859_1);
    return "version " + array[6] + " " + text.strip();
  }

  private static byte[] npz(byte[] moments, byte[] labels) {
    Map<String, byte[]> entries = new LinkedHashMap<>();
    entries.put("moments.npy", moments);
    entries.put("labels.npy", labels);
    return Npz.zip(entries);
  }

  private static float[] ramp(int count) {
    float[] values = new float[count];
    for (int i = 0; i < count; i++) {
      values[i] = i / 7f - 3;
    }
    return values;
  }

  private static byte[] safetensors(String header, byte[] data) {
    byte[] text = header.getBytes(StandardCharsets.UTF_8);
    ByteBuffer file = ByteBuffer.allocate(8 + text.length + data.length);
    file.order(ByteOrder.LITTLE_ENDIAN).putLong(text.length);
    return file.put(text).put(data).array();
  }

  private static byte[] png(byte[]... chunks) {
    byte[] file = {(byte) 0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    for (byte[] chunk : chunks) {
      file = concat(file, chunk);
    }
    return file;
  }

  private static byte[] header(int width, int height, int depth, int colours, int interlacing) {
    ByteBuffer header = ByteBuffer.allocate(13).putInt(width).putInt(height);
    return chunk(
        "IHDR",
        header
            .put((byte) depth)
            .put((byte) colours)
            .putShort((short) 0)
            .put((byte) interlacing)
            .array());
  }

  private static byte[] chunk(String type, byte[] data) {
    byte[] content = concat(type.getBytes(StandardCharsets.ISO_8859_1), data);
    CRC32 checksum = new CRC32();
    checksum.update(content);
    ByteBuffer chunk = ByteBuffer.allocate(12 + data.length).putInt(data.length).put(content);
    return chunk.putInt((int) checksum.getValue()).array();
  }

  private static byte[] deflated(byte[] bytes) {
    ByteArrayOutputStream compressed = new ByteArrayOutputStream();
    try (DeflaterOutputStream out = new DeflaterOutputStream(compressed)) {
      out.write(bytes);
    } catch (IOException e) {
      throw new AssertionError("writing to memory", e);
    }
    return compressed.toByteArray();
  }

  /** Where a JPEG file has a marker first. */
  private static int find(byte[] bytes, int marker) {
    return IntStream.range(0, bytes.length - 1)
        .filter(i -> (ByteBuffer.wrap(bytes).getShort(i) & 0xffff) == marker)
        .findFirst()
        .orElseThrow();
  }

  private static byte[] concat(byte[] first, byte[] second) {
    byte[] both = Arrays.copyOf(first, first.length + second.length);
    System.arraycopy(second, 0, both, first.length, second.length);
    return both;
  }
}
