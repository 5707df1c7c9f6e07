package org.meanflow.sample;

import java.awt.image.BufferedImage;
import java.io.IOException;
import java.nio.channels.Channels;
import java.nio.file.Path;
import java.util.Arrays;
import javax.imageio.ImageIO;
import javax.imageio.stream.MemoryCacheImageOutputStream;
import org.meanflow.nn.weights.AtomicFile;
import org.nd4j.linalg.api.buffer.DataBuffer;
import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * Draws a batch of images as a grid, row by row, separated and filled up with white. Needs no
 * display.
 *
 * @param columns images beside each other, ≥ 1
 * @param gap white pixels between images, ≥ 0
 * @param scale side of the square that a pixel of an image becomes, ≥ 1
 */
public record ImageGrid(int columns, int gap, int scale) {
  private static final byte WHITE = (byte) 255;

  /** Checks the settings. */
  public ImageGrid {
    if (columns < 1) {
      throw new IllegalArgumentException("columns must be >= 1, got " + columns);
    }
    if (gap < 0) {
      throw new IllegalArgumentException("gap must be >= 0, got " + gap);
    }
    if (scale < 1) {
      throw new IllegalArgumentException("scale must be >= 1, got " + scale);
    }
  }

  /**
   * Chooses a grid about as wide as high, in which small images are enlarged to about 64 pixels.
   *
   * @param images shape {@code [count, channels, height, width]}
   * @return its settings
   */
  public static ImageGrid fitting(INDArray images) {
    requireImages(images);
    int columns = (int) Math.ceil(Math.sqrt((double) images.size(0)));
    long side = Math.max(images.size(2), images.size(3));
    return new ImageGrid(columns, 2, (int) Math.max(1, 64 / side));
  }

  /**
   * Draws images.
   *
   * @param images shape {@code [count, channels, height, width]} with 1 (grey) or 3 (red, green,
   *     blue) channels, values in [−1, 1], clamped where they are outside; not changed
   * @return the grid, of type {@link BufferedImage#TYPE_BYTE_GRAY} or {@link
   *     BufferedImage#TYPE_3BYTE_BGR}
   * @throws IllegalArgumentException if the shape is another, a value is not finite or the grid is
   *     too large for an image
   */
  public BufferedImage draw(INDArray images) {
    requireImages(images);
    int count = (int) images.size(0);
    int channels = (int) images.size(1);
    int height = (int) images.size(2);
    int width = (int) images.size(3);
    int across = Math.min(columns, count);
    long gridWidth = across * ((long) width * scale + gap) - gap;
    long gridHeight = Math.ceilDiv(count, across) * ((long) height * scale + gap) - gap;
    // Compared by division: the product may overflow.
    if (gridWidth > Integer.MAX_VALUE / channels / gridHeight) {
      throw new IllegalArgumentException(
          "images must fit a grid of less than 2 GiB, got %d x %d pixels; draw fewer or write .npy"
              .formatted(gridWidth, gridHeight));
    }
    byte[] pixels = new byte[(int) (gridWidth * gridHeight * channels)];
    Arrays.fill(pixels, WHITE);
    DataBuffer values = images.dup('c').data(); // a view's own buffer holds more than the view
    for (int i = 0; i < count; i++) {
      long top = (i / across) * ((long) height * scale + gap);
      long left = (i % across) * ((long) width * scale + gap);
      for (int c = 0; c < channels; c++) {
        for (int y = 0; y < height; y++) {
          for (int x = 0; x < width; x++) {
            double value = values.getDouble((((long) i * channels + c) * height + y) * width + x);
            if (!Double.isFinite(value)) {
              throw new IllegalArgumentException(
                  "images must be finite, got %s in image %d, channel %d, row %d, column %d"
                      .formatted(value, i, c, y, x));
            }
            for (int dy = 0; dy < scale; dy++) {
              long row = (top + (long) y * scale + dy) * gridWidth + left + (long) x * scale;
              for (int dx = 0; dx < scale; dx++) {
                pixels[(int) ((row + dx) * channels + c)] = level(value);
              }
            }
          }
        }
      }
    }
    BufferedImage grid =
        new BufferedImage(
            (int) gridWidth,
            (int) gridHeight,
            channels == 1 ? BufferedImage.TYPE_BYTE_GRAY : BufferedImage.TYPE_3BYTE_BGR);
    grid.getRaster().setDataElements(0, 0, (int) gridWidth, (int) gridHeight, pixels);
    return grid;
  }

  /**
   * Draws images into a PNG file, replacing what is there. Missing parent directories are made.
   *
   * @param target the file
   * @param images as for {@link #draw}
   * @throws IOException if the file cannot be written
   * @throws IllegalArgumentException as for {@link #draw}
   */
  public void writePng(Path target, INDArray images) throws IOException {
    BufferedImage grid = draw(images);
    AtomicFile.write(
        target,
        channel -> {
          try (var out = new MemoryCacheImageOutputStream(Channels.newOutputStream(channel))) {
            if (!ImageIO.write(grid, "png", out)) {
              throw new IOException("this Java runtime has no PNG writer");
            }
            out.flush();
          }
        });
  }

  /** −1 ↦ 0 and 1 ↦ 255, to the nearest level. */
  private static byte level(double value) {
    return (byte) Math.round((Math.clamp(value, -1, 1) + 1) * 127.5);
  }

  private static void requireImages(INDArray images) {
    if (images.rank() != 4 || images.isEmpty() || (images.size(1) != 1 && images.size(1) != 3)) {
      throw new IllegalArgumentException(
          "images must have shape [count, 1 or 3 channels, height, width], got "
              + Arrays.toString(images.shape()));
    }
  }
}
