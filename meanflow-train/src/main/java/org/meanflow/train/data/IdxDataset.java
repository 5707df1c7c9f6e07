package org.meanflow.train.data;

import java.nio.file.Path;
import java.util.Objects;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/**
 * Grey images in the IDX files of the MNIST family: {@code idx3-ubyte} with images, {@code
 * idx1-ubyte} with labels, plain or compressed with gzip (told by the first bytes, not by the
 * name). The bytes stay in memory as they are; a byte v becomes v/127.5 − 1 when a batch asks for
 * it.
 *
 * @see <a href="http://yann.lecun.com/exdb/mnist/">The format</a>
 */
public final class IdxDataset extends PerImageDataset {
  private static final int LABELS_START = 8;
  private static final int ANY_LABEL = 256;

  private final byte[] pixels;
  private final byte @Nullable [] labels;

  private IdxDataset(IdxFile images, byte @Nullable [] labels, int classes) {
    super(images.dimensions()[0], classes, 1, images.dimensions()[1], images.dimensions()[2]);
    this.pixels = images.data();
    this.labels = labels;
  }

  /**
   * Reads images and labels. The largest label tells the number of classes.
   *
   * @param images file with N×H×W bytes
   * @param labels file with N bytes
   * @return the data set
   * @throws DataException if a file is missing or damaged, or the two do not belong together
   */
  public static IdxDataset read(Path images, Path labels) throws DataException {
    IdxFile pixels = images(DataSource.file(images));
    byte[] classOf = labels(DataSource.file(labels), images.toString(), pixels, ANY_LABEL);
    int largest = IntStream.range(0, classOf.length).map(i -> classOf[i] & 0xff).max().orElse(0);
    return new IdxDataset(pixels, classOf, largest + 1);
  }

  /**
   * Reads images and labels of a known number of classes.
   *
   * @param images file with N×H×W bytes
   * @param labels file with N bytes
   * @param classes number of classes, ≥ 1; each label must be smaller
   * @return the data set
   * @throws DataException if a file is missing or damaged, the two do not belong together, or a
   *     label is too large
   */
  public static IdxDataset read(DataSource images, DataSource labels, int classes)
      throws DataException {
    if (classes < 1) {
      throw new IllegalArgumentException("classes must be >= 1, got " + classes);
    }
    IdxFile pixels = images(images);
    return new IdxDataset(pixels, labels(labels, images.name(), pixels, classes), classes);
  }

  /**
   * Reads images without labels.
   *
   * @param images file with N×H×W bytes
   * @return the data set
   * @throws DataException if the file is missing or damaged
   */
  public static IdxDataset read(DataSource images) throws DataException {
    return new IdxDataset(images(images), null, 0);
  }

  private static IdxFile images(DataSource source) throws DataException {
    return IdxFile.read(source, 3, "images");
  }

  private static byte[] labels(DataSource source, String imageFile, IdxFile images, int classes)
      throws DataException {
    byte[] labels = IdxFile.read(source, 1, "labels").data();
    int count = images.dimensions()[0];
    if (labels.length != count) {
      throw new DataException(
          DataException.at(source.name(), LABELS_START - Integer.BYTES),
          "there must be a label for each of the %d images of %s, got %d"
              .formatted(count, imageFile, labels.length),
          "take both files from the same set");
    }
    for (int i = 0; i < count; i++) {
      int label = labels[i] & 0xff;
      if (label >= classes) {
        throw new DataException(
            DataException.at(source.name(), LABELS_START + (long) i),
            "label must be in [0, %d), got %d".formatted(classes, label),
            "check the file or the number of classes");
      }
    }
    return labels;
  }

  @Override
  protected void read(int index, @Nullable Visit visit, double[] image) {
    for (int i = 0; i < image.length; i++) {
      image[i] = value(pixels[index * image.length + i]);
    }
  }

  @Override
  protected int label(int index) {
    return Objects.requireNonNull(labels)[index] & 0xff;
  }
}
