package org.meanflow.train.recipe;

import java.nio.file.Path;
import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.meanflow.train.data.CifarDataset;
import org.meanflow.train.data.DataException;
import org.meanflow.train.data.DataSource;
import org.meanflow.train.data.HorizontalFlip;
import org.meanflow.train.data.IdxDataset;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.data.ImageFolderDataset;
import org.meanflow.train.data.LatentDataset;
import org.meanflow.train.data.LatentForm;
import org.meanflow.train.data.PerImageDataset;

/**
 * The section {@code data}: what is trained on.
 *
 * @param format format of the files
 * @param folder folder that relative names are relative to; {@code null} if there are none
 * @param images for {@code idx} the file of the images, as {@link DataSource#locate} wants it; for
 *     {@code cifar10} and {@code latents} the files, as {@link DataSource#matching} wants them; for
 *     {@code image-folder} the folder with a folder for each class
 * @param labels for {@code idx} the file of the labels, or {@code null} for none; {@code null} for
 *     all other formats, which have labels of their own
 * @param flip whether images are mirrored at random; {@code null} for false
 * @param latents what the files of {@code latents} hold; {@code null} for all other formats
 */
public record DataSection(
    Format format,
    @Nullable String folder,
    String images,
    @Nullable String labels,
    @Nullable Boolean flip,
    @Nullable LatentForm latents) {

  /** The formats of data files. */
  public enum Format {
    /** The format of MNIST, see {@link IdxDataset}. */
    IDX,
    /** CIFAR-10's binary version, see {@link CifarDataset}. */
    CIFAR10,
    /** PNG and JPEG files in a folder for each class, see {@link ImageFolderDataset}. */
    IMAGE_FOLDER,
    /** Latents of an autoencoder, see {@link LatentDataset}. */
    LATENTS
  }

  /** Refuses keys that the format has no use for, and latents without their form. */
  public DataSection {
    if (labels != null && format != Format.IDX) {
      throw new IllegalArgumentException(
          "labels must be left out unless data.format is idx, got " + labels);
    }
    if ((latents != null) != (format == Format.LATENTS)) {
      throw new IllegalArgumentException(
          "latents must be given if, and only if, data.format is latents, got "
              + (latents == null ? "nothing" : latents));
    }
  }

  /** {@return whether the files have labels} */
  boolean labelled() {
    return format != Format.IDX || labels != null;
  }

  /**
   * Reads or opens the data set.
   *
   * @param model channels and size that images of a folder are brought to, and the number of
   *     classes; with 0 labels are not read
   * @return the data set, to be closed
   * @throws DataException if a file is missing or damaged, or a label is not below the number of
   *     classes
   */
  public ImageDataset read(ModelSection model) throws DataException {
    PerImageDataset dataset = open(model);
    return flip != null && flip ? new HorizontalFlip(dataset) : dataset;
  }

  private PerImageDataset open(ModelSection model) throws DataException {
    Path base = folder == null ? null : DataSource.resolve(folder, Path.of(""));
    int classes = model.classes();
    return switch (format) {
      case IDX -> {
        DataSource file = DataSource.locate(images, base);
        yield labels == null || classes == 0
            ? IdxDataset.read(file)
            : IdxDataset.read(file, DataSource.locate(labels, base), classes);
      }
      case CIFAR10 -> CifarDataset.read(DataSource.matching(images, base), classes);
      case IMAGE_FOLDER ->
          ImageFolderDataset.open(
              DataSource.resolve(images, base), classes, model.channels(), model.imageSize());
      case LATENTS -> {
        List<Path> files = DataSource.matching(images, base);
        yield LatentDataset.open(files, Objects.requireNonNull(latents), classes);
      }
    };
  }
}
