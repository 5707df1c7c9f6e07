package org.meanflow.train.recipe;

import java.nio.file.Path;
import org.jspecify.annotations.Nullable;
import org.meanflow.train.data.DataException;
import org.meanflow.train.data.DataSource;
import org.meanflow.train.data.IdxDataset;
import org.meanflow.train.data.ImageDataset;

/**
 * The section {@code data}: what is trained on. Files are named as {@link DataSource#locate} wants
 * them: {@code resource:NAME}, or a path relative to the folder of the data.
 *
 * @param format format of the files
 * @param folder folder that relative file names are relative to; {@code null} if there are none
 * @param images file of the images
 * @param labels file of the labels; {@code null} for none
 */
public record DataSection(
    Format format, @Nullable String folder, String images, @Nullable String labels) {

  /** The formats of data files. */
  public enum Format {
    /** The format of MNIST, see {@link IdxDataset}. */
    IDX
  }

  /**
   * Reads the data set.
   *
   * @param classes number of classes; with 0 labels are not read
   * @return the data set
   * @throws DataException if a file is missing or damaged, or a label is not below {@code classes}
   */
  public ImageDataset read(int classes) throws DataException {
    Path base = folder == null ? null : Path.of(folder);
    DataSource imageFile = DataSource.locate(images, base);
    return switch (format) {
      case IDX ->
          labels == null || classes == 0
              ? IdxDataset.read(imageFile)
              : IdxDataset.read(imageFile, DataSource.locate(labels, base), classes);
    };
  }
}
