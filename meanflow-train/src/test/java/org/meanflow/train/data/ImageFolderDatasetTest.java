package org.meanflow.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.awt.image.BufferedImage;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;

class ImageFolderDatasetTest {
  @TempDir Path root;

  private Path write(String name, byte[] bytes) throws IOException {
    Path file = root.resolve(name);
    Files.createDirectories(file.getParent());
    return Files.write(file, bytes);
  }

  private static byte[] plain(int type, int rgb) {
    BufferedImage image = new BufferedImage(4, 4, type);
    for (int i = 0; i < 16; i++) {
      image.setRGB(i % 4, i / 4, 0xff000000 | rgb);
    }
    return Pictures.file("png", image);
  }

  @Test
  void classesAndImagesAreInTheOrderOfTheirNames() throws IOException {
    write("dog/2.png", plain(BufferedImage.TYPE_INT_RGB, 0x0000ff));
    write("dog/10.PNG", plain(BufferedImage.TYPE_INT_RGB, 0x00ff00));
    write("cat/a.jpeg", Pictures.file("jpg", Pictures.picture(4, 4)));
    write("Zebra/z.jpg", plain(BufferedImage.TYPE_INT_RGB, 0xff0000)); // a PNG in fact
    write("dog/notes.txt", new byte[3]);
    write("dog/.hidden.png", new byte[3]);
    write(".cache/x.png", new byte[3]);
    write("readme", new byte[3]);
    ImageDataset dataset = ImageFolderDataset.open(root, 5, 3, 4);
    assertThat(dataset.size()).isEqualTo(4);
    assertThat(dataset.classes()).isEqualTo(5);
    ImageDataset.Batch batch = dataset.batch(new int[] {0, 1, 2, 3}, DataType.DOUBLE);
    assertThat(batch.labels()).containsExactly(0, 1, 2, 2); // Zebra, cat, dog/10, dog/2
    assertThat(corner(batch.x(), 0)).containsExactly(1, -1, -1);
    assertThat(corner(batch.x(), 2)).containsExactly(-1, 1, -1);
    assertThat(corner(batch.x(), 3)).containsExactly(-1, -1, 1);
    assertThat(ImageFolderDataset.open(root, 0, 3, 4).batch(new int[] {0}, DataType.FLOAT).labels())
        .isNull();
  }

  private static double[] corner(INDArray x, int image) {
    return new double[] {
      x.getDouble(image, 0, 0, 0), x.getDouble(image, 1, 0, 0), x.getDouble(image, 2, 0, 0)
    };
  }

  /** Grey, 16 bits, transparency: the sample in the file counts, whatever the colour model. */
  @ParameterizedTest
  @ValueSource(
      ints = {
        BufferedImage.TYPE_BYTE_GRAY,
        BufferedImage.TYPE_USHORT_GRAY,
        BufferedImage.TYPE_3BYTE_BGR,
        BufferedImage.TYPE_4BYTE_ABGR,
        BufferedImage.TYPE_BYTE_INDEXED,
      })
  void everyColourModelIsRead(int type) throws IOException {
    BufferedImage image = new BufferedImage(4, 4, type);
    int bands = image.getRaster().getNumBands();
    int level = type == BufferedImage.TYPE_USHORT_GRAY ? 100 * 257 : 100;
    if (type == BufferedImage.TYPE_BYTE_INDEXED) {
      level = 0x66; // a level of the default palette
    }
    for (int i = 0; i < 16; i++) {
      if (type == BufferedImage.TYPE_BYTE_INDEXED) {
        image.setRGB(i % 4, i / 4, 0xff666666);
      } else {
        int[] sample = new int[bands];
        Arrays.fill(sample, level);
        image.getRaster().setPixel(i % 4, i / 4, sample);
      }
    }
    write("a/x.png", Pictures.file("png", image));
    double expected = (type == BufferedImage.TYPE_BYTE_INDEXED ? 0x66 : 100) / 127.5 - 1;
    for (int channels : new int[] {1, 3}) {
      INDArray x =
          ImageFolderDataset.open(root, 1, channels, 4).batch(new int[] {0}, DataType.DOUBLE).x();
      assertThat(x.shape()).containsExactly(1, channels, 4, 4);
      assertThat(x.dup('c').data().asDouble()).containsOnly(expected);
    }
  }

  @Test
  void greyIsTheLumaOfColours() throws IOException {
    write("a/x.png", plain(BufferedImage.TYPE_INT_RGB, 0xc86432));
    INDArray x = ImageFolderDataset.open(root, 1, 1, 4).batch(new int[] {0}, DataType.DOUBLE).x();
    long luma = Math.round(0.299 * 0xc8 + 0.587 * 0x64 + 0.114 * 0x32);
    assertThat(x.getDouble(0, 0, 1, 1)).isEqualTo(luma / 127.5 - 1);
  }

  /**
   * A ramp along the longer side: its middle is kept, scaled. A linear ramp stays one under
   * bilinear and bicubic interpolation except at the borders.
   */
  @ParameterizedTest
  @CsvSource({"256, 128, 16", "128, 256, 16", "150, 100, 32", "40, 30, 30", "24, 16, 48"})
  void theMiddleSquareIsScaled(int width, int height, int side) throws IOException {
    int longer = Math.max(width, height);
    int shorter = Math.min(width, height);
    BufferedImage image = new BufferedImage(width, height, BufferedImage.TYPE_INT_RGB);
    for (int y = 0; y < height; y++) {
      for (int x = 0; x < width; x++) {
        int level = 255 * (width > height ? x : y) / longer;
        image.setRGB(x, y, level << 16 | level << 8 | level);
      }
    }
    write("a/x.png", Pictures.file("png", image));
    INDArray x =
        ImageFolderDataset.open(root, 1, 3, side).batch(new int[] {0}, DataType.DOUBLE).x();
    for (int i = 2; i < side - 2; i++) {
      double along = (longer - shorter) / 2.0 + (i + 0.5) * shorter / side - 0.5;
      double level =
          127.5 * (1 + (width > height ? x.getDouble(0, 1, 3, i) : x.getDouble(0, 1, i, 3)));
      // The levels are rounded down when drawn, and to whole ones by each of up to four scalings,
      // half of the pixel that the corners of the square are rounded to is a few levels, too.
      assertThat(Math.abs(level - 255 * along / longer)).isLessThan(4 + 127.5 / longer);
    }
  }

  @Test
  void jpegIsReadAsItsColours() throws IOException {
    BufferedImage picture = Pictures.picture(32, 32);
    write("a/x.jpg", Pictures.file("jpg", picture));
    INDArray x = ImageFolderDataset.open(root, 1, 3, 32).batch(new int[] {0}, DataType.DOUBLE).x();
    for (int i = 0; i < 32; i++) {
      for (int channel = 0; channel < 3; channel++) {
        int level = picture.getRGB(i, 31 - i) >> (16 - 8 * channel) & 0xff;
        // Quality 0.75 and colours at half the resolution on a smooth ramp.
        assertThat(Math.abs(127.5 * (1 + x.getDouble(0, channel, 31 - i, i)) - level))
            .isLessThan(16);
      }
    }
  }

  @Test
  void whatIsNoFolderOfImagesIsRefused() throws IOException {
    assertThatThrownBy(() -> ImageFolderDataset.open(root, 2, 3, 4))
        .isInstanceOf(DataException.class)
        .hasMessageContaining("there is no CLASS/*.png");
    write("a/x.png", plain(BufferedImage.TYPE_INT_RGB, 0));
    write("b/x.png", plain(BufferedImage.TYPE_INT_RGB, 0));
    write("c/notes", new byte[1]);
    assertThatThrownBy(() -> ImageFolderDataset.open(root, 2, 3, 4))
        .hasMessageContaining("at most 2 folders, one for each class, got 3");
    assertThatThrownBy(() -> ImageFolderDataset.open(root, 3, 3, 4))
        .hasMessageContaining("c: the folder of a class has no .png");
    assertThatThrownBy(() -> ImageFolderDataset.open(root.resolve("no"), 3, 3, 4))
        .isInstanceOf(DataException.class)
        .hasMessageContaining("no: there is no such file");
  }

  @Test
  void aFileThatVanishedIsNamed() throws IOException {
    Path file = write("a/x.png", plain(BufferedImage.TYPE_INT_RGB, 0));
    ImageDataset dataset = ImageFolderDataset.open(root, 1, 3, 4);
    Files.delete(file);
    assertThatThrownBy(() -> dataset.batch(new int[] {0}, DataType.FLOAT))
        .isInstanceOf(DataException.class)
        .hasMessage(file + ": there is no such file; check the name and the folder");
  }
}
