package org.meanflow.train.data;

import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * CIFAR-10 in its binary version: files of records of 3073 bytes, the class, then the red, the
 * green and the blue plane of 32×32 pixels. The bytes stay in memory as they are.
 *
 * @see <a href="https://www.cs.toronto.edu/~kriz/cifar.html">The format</a>
 */
public final class CifarDataset extends PerImageDataset {
  private static final int SIDE = 32;
  private static final int PIXELS = 3 * SIDE * SIDE;
  private static final int RECORD = 1 + PIXELS;
  private static final int CLASSES = 10;

  /** The records, a file each. */
  private final List<byte[]> files;

  /** The index of the first image of each file. */
  private final int[] first;

  private CifarDataset(List<byte[]> files, int[] first, int size, int classes) {
    super(size, classes, 3, SIDE, SIDE);
    this.files = files;
    this.first = first;
  }

  /**
   * Reads files, such as the five of the training set.
   *
   * @param paths the files, at least one; images are numbered in their order
   * @param classes 0 for no labels, or number of classes, ≥ 10
   * @return the data set
   * @throws DataException if a file is missing, damaged or of another format
   */
  public static CifarDataset read(List<Path> paths, int classes) throws DataException {
    if (paths.isEmpty()) {
      throw new IllegalArgumentException("paths must not be empty");
    }
    if (classes != 0 && classes < CLASSES) {
      throw new IllegalArgumentException("classes must be 0 or >= 10, got " + classes);
    }
    // Copies come and go while reading, and the program needs memory too.
    long memory = Runtime.getRuntime().maxMemory() / 2;
    byte[][] files = new byte[paths.size()][];
    int[] first = new int[paths.size()];
    int size = 0;
    for (int i = 0; i < files.length; i++) {
      files[i] = read(paths.get(i), memory);
      memory -= files[i].length;
      first[i] = size;
      size = Math.addExact(size, files[i].length / RECORD);
    }
    return new CifarDataset(List.of(files), first, size, classes);
  }

  private static byte[] read(Path path, long memory) throws DataException {
    String file = path.toString();
    byte[] bytes;
    try (InputStream in = Files.newInputStream(path)) {
      long length = Files.size(path);
      if (length == 0 || length % RECORD != 0) {
        throw new DataException(
            DataException.at(file, length),
            "a file of CIFAR-10 has records of %d bytes, but this one ends after %d"
                .formatted(RECORD, length % RECORD),
            "download it again, or check that it is the binary version of CIFAR-10");
      }
      if (length > Math.min(memory, Integer.MAX_VALUE - 8)) {
        throw new DataException(
            file,
            "its %d bytes do not fit in memory, at most %d do".formatted(length, memory),
            "give the JVM more with -Xmx");
      }
      bytes = in.readNBytes((int) length);
      if (bytes.length < length) {
        throw new DataException(
            DataException.at(file, bytes.length), "the file became shorter", "read it again");
      }
    } catch (DataException e) {
      throw e;
    } catch (IOException e) {
      throw DataException.unreadable(path, e);
    }
    for (int record = 0; record < bytes.length; record += RECORD) {
      int label = bytes[record] & 0xff;
      if (label >= CLASSES) {
        throw new DataException(
            DataException.at(file, record),
            "label must be in [0, %d), got %d".formatted(CLASSES, label),
            "download it again, or check that it is the binary version of CIFAR-10");
      }
    }
    return bytes;
  }

  @Override
  protected void read(int index, @Nullable Visit visit, double[] image) {
    int file = file(index);
    int start = (index - first[file]) * RECORD + 1;
    for (int i = 0; i < PIXELS; i++) {
      image[i] = value(files.get(file)[start + i]);
    }
  }

  @Override
  protected int label(int index) {
    int file = file(index);
    return files.get(file)[(index - first[file]) * RECORD];
  }

  private int file(int index) {
    int file = Arrays.binarySearch(first, index);
    return file >= 0 ? file : -file - 2; // else before the insertion point, which is −file − 1
  }
}
