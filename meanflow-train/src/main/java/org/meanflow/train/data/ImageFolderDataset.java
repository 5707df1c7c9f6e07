package org.meanflow.train.data;

import java.io.IOException;
import java.nio.file.DirectoryIteratorException;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * Images in a folder for each class: {@code CLASS/*.png}, {@code .jpg} or {@code .jpeg}. Classes
 * are numbered by their names in order, images by class and then by name. An image is scaled so
 * that its shorter side fits, the middle of its longer side is kept, and a byte v becomes v/127.5 −
 * 1. Files are read whenever they are asked for; only their names stay in memory.
 */
public final class ImageFolderDataset extends PerImageDataset {
  private static final List<String> ENDINGS = List.of(".png", ".jpg", ".jpeg");

  private final Path[] images;

  /** Index behind the last image of each class. */
  private final int[] ends;

  private final int channels;
  private final int side;

  private ImageFolderDataset(Path[] images, int[] ends, int classes, int channels, int side) {
    super(images.length, classes, channels, side, side);
    this.images = images;
    this.ends = ends;
    this.channels = channels;
    this.side = side;
  }

  /**
   * Lists the images of a folder. Names that begin with a dot are left out.
   *
   * @param root folder with a folder for each class
   * @param classes 0 for no labels, or number of classes, at least as many as there are folders
   * @param channels 1 for grey, 3 for red, green and blue
   * @param side height and width that images are brought to, ≥ 1
   * @return the data set
   * @throws DataException if the folder cannot be listed, holds no images, or more folders than
   *     classes
   */
  public static ImageFolderDataset open(Path root, int classes, int channels, int side)
      throws DataException {
    if (classes < 0) {
      throw new IllegalArgumentException("classes must be >= 0, got " + classes);
    }
    if (channels != 1 && channels != 3) {
      throw new IllegalArgumentException("channels must be 1 or 3, got " + channels);
    }
    if (side < 1) {
      throw new IllegalArgumentException("side must be >= 1, got " + side);
    }
    List<Path> folders = list(root);
    folders.removeIf(each -> !Files.isDirectory(each));
    if (classes != 0 && folders.size() > classes) {
      throw new DataException(
          root.toString(),
          "there must be at most %d folders, one for each class, got %d"
              .formatted(classes, folders.size()),
          "check the folder or model.classes");
    }
    List<Path> images = new ArrayList<>();
    int[] ends = new int[folders.size()];
    for (int label = 0; label < ends.length; label++) {
      int before = images.size();
      for (Path file : list(folders.get(label))) {
        String name = name(file).toLowerCase(Locale.ROOT);
        if (ENDINGS.stream().anyMatch(name::endsWith)) {
          images.add(file);
        }
      }
      if (images.size() == before) {
        throw new DataException(
            folders.get(label).toString(),
            "the folder of a class has no .png, .jpg or .jpeg",
            "add some or remove it");
      }
      ends[label] = images.size();
    }
    if (images.isEmpty()) {
      throw new DataException(
          root.toString(),
          "there is no CLASS/*.png, .jpg or .jpeg",
          "name the folder that holds a folder for each class");
    }
    return new ImageFolderDataset(images.toArray(Path[]::new), ends, classes, channels, side);
  }

  private static List<Path> list(Path folder) throws DataException {
    List<Path> entries = new ArrayList<>();
    try (DirectoryStream<Path> stream =
        Files.newDirectoryStream(folder, each -> !name(each).startsWith("."))) {
      stream.forEach(entries::add);
    } catch (IOException e) {
      throw DataException.unreadable(folder, e);
    } catch (DirectoryIteratorException e) {
      throw DataException.unreadable(folder, Objects.requireNonNull(e.getCause()));
    }
    entries.sort((a, b) -> name(a).compareTo(name(b))); // as text, the same everywhere
    return entries;
  }

  private static String name(Path path) {
    return Objects.requireNonNull(path.getFileName()).toString();
  }

  @Override
  protected void read(int index, @Nullable Visit visit, double[] image) throws DataException {
    int[] rgb = ImageFile.read(images[index]).square(side);
    for (int i = 0; i < rgb.length; i++) {
      int red = rgb[i] >> 16 & 0xff;
      int green = rgb[i] >> 8 & 0xff;
      int blue = rgb[i] & 0xff;
      if (channels == 1) {
        // ITU-R BT.601, as most programs turn colours into grey.
        image[i] = value((byte) Math.round(0.299 * red + 0.587 * green + 0.114 * blue));
      } else {
        image[i] = value((byte) red);
        image[i + rgb.length] = value((byte) green);
        image[i + 2 * rgb.length] = value((byte) blue);
      }
    }
  }

  @Override
  protected int label(int index) {
    int found = Arrays.binarySearch(ends, index);
    return found >= 0 ? found + 1 : -found - 1;
  }
}
