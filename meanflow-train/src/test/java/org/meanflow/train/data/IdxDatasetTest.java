package org.meanflow.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import java.util.zip.GZIPInputStream;
import org.assertj.core.api.AbstractThrowableAssert;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.nd4j.linalg.api.buffer.DataType;

@Timeout(value = 60, unit = TimeUnit.SECONDS)
class IdxDatasetTest {
  private static final byte[] IMAGES = Idx.images(5, 3, 4);
  private static final byte[] LABELS = Idx.labels(0, 9, 2, 2, 7);

  @TempDir Path directory;

  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void bytesBecomeValuesFromMinusOneToOne(boolean compressed) throws IOException {
    // Named against the content: it is the first bytes that tell.
    Path images = write(compressed ? "images" : "images.gz", pack(IMAGES, compressed));
    Path labels = write(compressed ? "labels" : "labels.gz", pack(LABELS, compressed));
    IdxDataset dataset = IdxDataset.read(images, labels);

    assertThat(dataset.size()).isEqualTo(5);
    assertThat(dataset.classes()).isEqualTo(10);
    assertThat(dataset.imageShape()).containsExactly(1, 3, 4);
    for (DataType type : new DataType[] {DataType.FLOAT, DataType.DOUBLE}) {
      ImageDataset.Batch batch = dataset.batch(new int[] {4, 0, 4}, type);
      assertThat(batch.labels()).containsExactly(7, 0, 7);
      assertThat(batch.x().dataType()).isEqualTo(type);
      assertThat(batch.x().shape()).containsExactly(3, 1, 3, 4);
      double[] values = batch.x().dup('c').data().asDouble();
      for (int i = 0; i < values.length; i++) {
        int image = new int[] {4, 0, 4}[i / 12];
        double expected = (Idx.pixel(image * 12 + i % 12) & 0xff) / 127.5 - 1;
        // float32 rounds values up to 1 by at most half an ulp, 2⁻²⁵.
        double tolerance = type == DataType.FLOAT ? 0x1p-25 : 0;
        assertThat(Math.abs(values[i] - expected)).isLessThanOrEqualTo(tolerance);
      }
    }
  }

  @Test
  void blackIsMinusOneAndWhiteIsOne() throws IOException {
    byte[] file = Idx.file(0x0803, new byte[] {0, -1}, 1, 1, 2);
    IdxDataset dataset = IdxDataset.read(source(file));
    assertThat(dataset.classes()).isZero();
    ImageDataset.Batch batch = dataset.batch(new int[] {0}, DataType.FLOAT);
    assertThat(batch.labels()).isNull();
    assertThat(batch.x().data().asDouble()).containsExactly(-1, 1);
  }

  @Test
  void imageShapeIsACopy() throws IOException {
    IdxDataset dataset = IdxDataset.read(source(IMAGES));
    dataset.imageShape()[0] = 7;
    assertThat(dataset.imageShape()).containsExactly(1, 3, 4);
  }

  @Test
  void imagesLargerThanTheFirstChunkAreReadWhole() throws IOException {
    IdxDataset dataset = IdxDataset.read(source(Idx.gzip(Idx.images(300, 28, 28))));
    int[] all = IntStream.range(0, 300).toArray();
    double[] values = dataset.batch(all, DataType.DOUBLE).x().data().asDouble();
    for (int i = 0; i < values.length; i++) {
      assertThat(values[i]).isEqualTo((Idx.pixel(i) & 0xff) / 127.5 - 1);
    }
  }

  @Test
  void batchRefusesWhatIsNoBatch() throws IOException {
    IdxDataset dataset = IdxDataset.read(source(IMAGES));
    assertThatThrownBy(() -> dataset.batch(new int[0], DataType.FLOAT))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("indices must not be empty");
    assertThatThrownBy(() -> dataset.batch(new int[] {0}, DataType.INT))
        .hasMessage("type must be FLOAT or DOUBLE, got INT");
    assertThatThrownBy(() -> dataset.batch(new int[] {5}, DataType.FLOAT))
        .isInstanceOf(IndexOutOfBoundsException.class);
    assertThatThrownBy(() -> dataset.batch(new int[] {-1}, DataType.FLOAT))
        .isInstanceOf(IndexOutOfBoundsException.class);
  }

  @Test
  void refusesAnotherMagicNumber() throws IOException {
    refused(LABELS, LABELS)
        .hasMessageEndingWith(
            "images: byte 0: magic number must be 0x00000803 (images), got 0x00000801; check that"
                + " this is the file of the images");
    refused(IMAGES, IMAGES)
        .hasMessageContaining("labels: byte 0: magic number must be 0x00000801 (labels)");
    byte[] floats = Idx.file(0x0d03, new byte[4], 1, 1, 1);
    refused(floats, LABELS).hasMessageContaining("got 0x00000d03");
  }

  @Test
  void refusesTruncatedFiles() throws IOException {
    refused(new byte[0], LABELS)
        .hasMessageContaining("images: byte 0: the file breaks off in its header; download it");
    refused(Arrays.copyOf(IMAGES, 14), LABELS)
        .hasMessageContaining("images: byte 14: the file breaks off in its header");
    refused(Arrays.copyOf(IMAGES, IMAGES.length - 1), LABELS)
        .hasMessageContaining("images: byte 75: the file breaks off after 59 of 5×3×4 bytes");
    refused(Idx.gzip(Arrays.copyOf(IMAGES, IMAGES.length - 1)), LABELS)
        .hasMessageContaining("byte 75 of the decompressed data: the file breaks off after 59");
    refused(IMAGES, Arrays.copyOf(LABELS, 10))
        .hasMessageContaining("labels: byte 10: the file breaks off after 2 of 5 bytes");
  }

  @Test
  void refusesTrailingBytes() throws IOException {
    refused(Arrays.copyOf(IMAGES, IMAGES.length + 1), LABELS)
        .hasMessageContaining("images: byte 76: bytes follow where the file should end");
    refused(Idx.gzip(Arrays.copyOf(IMAGES, IMAGES.length + 1)), LABELS)
        .hasMessageContaining("byte 76 of the decompressed data: bytes follow");
  }

  @Test
  void refusesDamagedGzip() throws IOException {
    byte[] gzip = Idx.gzip(IMAGES);
    refused(Arrays.copyOf(gzip, gzip.length - 9), LABELS)
        .hasMessageContaining("the gzip stream breaks off; download it again");
    refused(Arrays.copyOf(gzip, 5), LABELS)
        .hasMessageContaining("images: byte 0: the gzip stream breaks off");
    byte[] checksum = gzip.clone();
    checksum[gzip.length - 8] ^= 1;
    refused(checksum, LABELS).hasMessageContaining("the gzip stream is damaged: ");
  }

  @Test
  void refusesLabelsOfAnotherSet() throws IOException {
    refused(IMAGES, Idx.labels(1, 2, 3))
        .hasMessageMatching(
            "(?s).*labels: byte 4: there must be a label for each of the 5 images of .*images, got"
                + " 3; take both files from the same set");
  }

  @Test
  void refusesLabelsOutOfRange() throws IOException {
    assertThatThrownBy(() -> IdxDataset.read(source(IMAGES), source(LABELS), 9))
        .isInstanceOf(DataException.class)
        .hasMessage(
            "memory: byte 9: label must be in [0, 9), got 9; check the file or the number of"
                + " classes");
    assertThat(IdxDataset.read(source(IMAGES), source(LABELS), 12).classes()).isEqualTo(12);
    assertThatThrownBy(() -> IdxDataset.read(source(IMAGES), source(LABELS), 0))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("classes must be >= 1, got 0");
  }

  @Test
  void refusesEmptySetsAndDimensions() throws IOException {
    refused(Idx.images(0, 3, 4), Idx.labels())
        .hasMessageContaining("images: byte 4: the file is empty: its first dimension is 0");
    refused(Idx.images(5, 0, 4), LABELS)
        .hasMessageContaining("images: byte 8: dimension 1 must be in [1, 2^31), got 0");
    refused(Idx.file(0x0803, new byte[0], 1, 1, -1), LABELS)
        .hasMessageContaining("byte 12: dimension 2 must be in [1, 2^31), got 4294967295");
  }

  /** The product of the first overflows 64 bits, of the second 32; the third fits in an array. */
  @Test
  void hostileDimensionsAllocateNothing() throws IOException {
    int huge = Integer.MAX_VALUE;
    refused(Idx.file(0x0803, new byte[9], huge, huge, huge), LABELS)
        .hasMessageContaining("byte 25: the file breaks off after 9 of 2147483647×2147483647×");
    refused(Idx.file(0x0803, new byte[9], 1 << 16, 1 << 16, 1 << 16), LABELS)
        .hasMessageContaining("breaks off after 9 of 65536×65536×65536 bytes");
    refused(Idx.file(0x0803, new byte[9], huge - 8, 1, 1), LABELS)
        .hasMessageContaining("breaks off after 9 of 2147483639×1×1 bytes");
  }

  @Test
  void refusesWhatDoesNotFitInMemory() throws IOException {
    byte[] header = Idx.file(0x0803, new byte[0], 1 << 16, 1 << 15, 1);
    DataSource endless =
        new DataSource() {
          @Override
          public String name() {
            return "endless";
          }

          @Override
          public InputStream open() {
            return new Endless(header);
          }
        };
    assertThatThrownBy(() -> IdxDataset.read(endless))
        .isInstanceOf(DataException.class)
        .hasMessageContaining("65536×32768×1 bytes do not fit in memory")
        .hasMessageEndingWith("give the JVM more with -Xmx");
  }

  @Test
  void refusesMissingFilesAndFolders() throws IOException {
    Path missing = directory.resolve("nothing");
    Path labels = write("labels", LABELS);
    assertThatThrownBy(() -> IdxDataset.read(missing, labels))
        .isInstanceOf(DataException.class)
        .hasMessage(missing + ": there is no such file; check the name and the folder");
    assertThatThrownBy(() -> IdxDataset.read(directory, labels))
        .isInstanceOf(DataException.class)
        .hasMessageStartingWith(directory + ": ");
    assertThatThrownBy(() -> IdxDataset.read(DataSource.resource("no/such")))
        .isInstanceOf(DataException.class)
        .hasMessageStartingWith("resource:no/such: there is no such file");
  }

  static IntStream seeds() {
    return IntStream.range(0, 400);
  }

  /** Damaged files are refused or, where only values changed, read as they are. */
  @ParameterizedTest
  @MethodSource("seeds")
  void mutationsAreRefusedOrReadAsTheyAre(int seed) throws IOException {
    Random random = new Random(seed);
    boolean compressed = seed % 2 == 1;
    boolean insideOut = seed % 4 == 3; // mutate before compressing, so that the gzip is sound
    byte[] images = IMAGES.clone();
    byte[] labels = LABELS.clone();
    if (compressed && !insideOut) {
      images = Idx.gzip(images);
      labels = Idx.gzip(labels);
    }
    if (random.nextBoolean()) {
      images = mutated(images, random);
    } else {
      labels = mutated(labels, random);
    }
    if (insideOut) {
      images = Idx.gzip(images);
      labels = Idx.gzip(labels);
    }
    try {
      IdxDataset dataset = IdxDataset.read(write("images", images), write("labels", labels));
      int size = dataset.size();
      long[] shape = dataset.imageShape();
      byte[] plainImages = plain(images);
      byte[] plainLabels = plain(labels);
      assertThat(size * shape[1] * shape[2]).isEqualTo(plainImages.length - 16);
      assertThat(plainLabels).hasSize(size + 8);
      ImageDataset.Batch batch = dataset.batch(IntStream.range(0, size).toArray(), DataType.DOUBLE);
      double[] values = batch.x().dup('c').data().asDouble();
      for (int i = 0; i < values.length; i++) {
        assertThat(values[i]).isEqualTo((plainImages[16 + i] & 0xff) / 127.5 - 1);
      }
      for (int i = 0; i < size; i++) {
        assertThat(batch.labels()[i]).isEqualTo(plainLabels[8 + i] & 0xff).isLessThan(256);
      }
    } catch (DataException e) {
      assertThat(e.getMessage()).contains(directory.toString()).contains("; ");
    }
  }

  private static byte[] mutated(byte[] bytes, Random random) {
    byte[] result = bytes.clone();
    switch (random.nextInt(4)) {
      case 0 -> result = Arrays.copyOf(bytes, random.nextInt(bytes.length));
      case 1 -> result = Arrays.copyOf(bytes, bytes.length + 1 + random.nextInt(40));
      case 2 -> result[random.nextInt(Math.min(20, bytes.length))] = (byte) random.nextInt();
      default -> {
        for (int i = 0; i <= random.nextInt(4); i++) {
          result[random.nextInt(bytes.length)] ^= (byte) (1 << random.nextInt(8));
        }
      }
    }
    return result;
  }

  private static byte[] plain(byte[] bytes) throws IOException {
    boolean gzip = bytes[0] == 0x1f && bytes[1] == (byte) 0x8b;
    if (!gzip) {
      return bytes;
    }
    try (InputStream in = new GZIPInputStream(new ByteArrayInputStream(bytes))) {
      return in.readAllBytes();
    }
  }

  private static byte[] pack(byte[] bytes, boolean compressed) {
    return compressed ? Idx.gzip(bytes) : bytes;
  }

  private AbstractThrowableAssert<?, ?> refused(byte[] images, byte[] labels) throws IOException {
    Path imageFile = write("images", images);
    Path labelFile = write("labels", labels);
    return assertThatThrownBy(() -> IdxDataset.read(imageFile, labelFile))
        .isInstanceOf(DataException.class);
  }

  private Path write(String name, byte[] bytes) throws IOException {
    return Files.write(directory.resolve(name), bytes);
  }

  private static DataSource source(byte[] bytes) {
    return new DataSource() {
      @Override
      public String name() {
        return "memory";
      }

      @Override
      public InputStream open() {
        return new ByteArrayInputStream(bytes);
      }
    };
  }

  /** A header, then zeros without end. */
  private static final class Endless extends InputStream {
    private final byte[] header;
    private int position;

    Endless(byte[] header) {
      this.header = header;
    }

    @Override
    public int read() {
      return position < header.length ? header[position++] & 0xff : 0;
    }

    @Override
    public int read(byte[] bytes, int offset, int length) {
      if (position < header.length) {
        bytes[offset] = (byte) read();
        return 1;
      }
      return length;
    }
  }
}
