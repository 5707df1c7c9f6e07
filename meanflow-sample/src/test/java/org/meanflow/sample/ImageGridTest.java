package org.meanflow.sample;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.awt.image.BufferedImage;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.stream.Stream;
import javax.imageio.ImageIO;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

class ImageGridTest {
  @TempDir Path directory;

  @Test
  void greyLevelsAreClampedAndRounded() {
    INDArray images = Nd4j.createFromArray(-1f, 1f, 0f, -7f, 7f, -0.5f).reshape('c', 1, 1, 2, 3);
    BufferedImage grid = new ImageGrid(1, 0, 1).draw(images);
    assertThat(grid.getType()).isEqualTo(BufferedImage.TYPE_BYTE_GRAY);
    // 127.5 rounds up; 0.5·127.5 = 63.75.
    assertThat(grid.getRaster().getSamples(0, 0, 3, 2, 0, (int[]) null))
        .containsExactly(0, 255, 128, 0, 255, 64);
  }

  @Test
  void layoutHasColumnsGapsAndScale() {
    // Three black images of 2 × 1 pixels in two columns, each pixel 3 × 3, gaps of 2.
    BufferedImage grid = new ImageGrid(2, 2, 3).draw(Nd4j.ones(3, 1, 2, 1).neg());
    assertThat(grid.getWidth()).isEqualTo(3 + 2 + 3);
    assertThat(grid.getHeight()).isEqualTo(6 + 2 + 6);
    for (int y = 0; y < grid.getHeight(); y++) {
      for (int x = 0; x < grid.getWidth(); x++) {
        boolean inside = (x < 3 || x >= 5) && (y < 6 || y >= 8) && !(x >= 5 && y >= 8);
        assertThat(grid.getRaster().getSample(x, y, 0)).isEqualTo(inside ? 0 : 255);
      }
    }
  }

  @Test
  void fewerImagesThanColumnsMakeNoEmptyColumns() {
    BufferedImage grid = new ImageGrid(8, 1, 1).draw(Nd4j.zeros(2, 1, 4, 4));
    assertThat(grid.getWidth()).isEqualTo(9);
    assertThat(grid.getHeight()).isEqualTo(4);
  }

  @Test
  void pngComesBackInColour() throws IOException {
    // Channels red, green, blue; a view in f order must not matter.
    INDArray images = Nd4j.zeros(DataType.FLOAT, 1, 3, 1, 2);
    images.assign(-1);
    images.putScalar(new int[] {0, 0, 0, 0}, 1);
    images.putScalar(new int[] {0, 2, 0, 1}, 1);
    Path path = directory.resolve("new/grid.png");
    new ImageGrid(1, 0, 1).writePng(path, images.dup('f'));

    BufferedImage read = ImageIO.read(path.toFile());

    assertThat(read.getRGB(0, 0)).isEqualTo(0xFFFF0000);
    assertThat(read.getRGB(1, 0)).isEqualTo(0xFF0000FF);
    try (Stream<Path> files = Files.list(path.getParent())) {
      assertThat(files).containsExactly(path);
    }
  }

  @Test
  void fittingGridIsAboutSquare() {
    assertThat(ImageGrid.fitting(Nd4j.zeros(10, 1, 28, 28))).isEqualTo(new ImageGrid(4, 2, 2));
    assertThat(ImageGrid.fitting(Nd4j.zeros(1, 3, 8, 4))).isEqualTo(new ImageGrid(1, 2, 8));
    assertThat(ImageGrid.fitting(Nd4j.zeros(2, 3, 100, 4)).scale()).isEqualTo(1);
  }

  @ParameterizedTest
  @ValueSource(floats = {Float.NaN, Float.POSITIVE_INFINITY, Float.NEGATIVE_INFINITY})
  void nonFiniteValuesAreLocated(float value) {
    INDArray images = Nd4j.zeros(DataType.FLOAT, 2, 3, 4, 5);
    images.putScalar(new int[] {1, 2, 3, 4}, value);
    assertThatThrownBy(() -> new ImageGrid(2, 1, 1).draw(images))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage(
            "images must be finite, got " + value + " in image 1, channel 2, row 3, column 4");
  }

  @Test
  void whatIsNoImageIsRefused() {
    ImageGrid grid = new ImageGrid(1, 0, 1);
    for (INDArray array : new INDArray[] {Nd4j.zeros(2, 4, 8, 8), Nd4j.zeros(3, 8, 8)}) {
      assertThatThrownBy(() -> grid.draw(array))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessageStartingWith("images must have shape [count, 1 or 3 channels, height, width]");
    }
    assertThatThrownBy(() -> new ImageGrid(1, 0, 40_000).draw(Nd4j.zeros(1, 1, 2, 2)))
        .hasMessageContaining("got 80000 x 80000 pixels");
    assertThatThrownBy(() -> new ImageGrid(0, 0, 1)).hasMessage("columns must be >= 1, got 0");
    assertThatThrownBy(() -> new ImageGrid(1, -1, 1)).hasMessage("gap must be >= 0, got -1");
    assertThatThrownBy(() -> new ImageGrid(1, 0, 0)).hasMessage("scale must be >= 1, got 0");
  }
}
