package org.meanflow.sample;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Locale;
import org.jspecify.annotations.Nullable;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/** Writes samples to a file whose name says in which format. */
public final class SampleWriter {
  private static final String PNG = ".png";
  private static final String NPY = ".npy";

  private SampleWriter() {}

  /**
   * Writes samples, replacing what is there. Missing parent directories are made.
   *
   * <ul>
   *   <li>{@code NAME.png}: a grid of images, values clamped to [−1, 1], see {@link ImageGrid}.
   *   <li>{@code NAME.npy}: float32, shape {@code [count, channels, height, width]}, values as they
   *       are. With labels, {@code NAME.labels.npy} holds them (int32, shape {@code [count]});
   *       without, an old file of that name is deleted.
   * </ul>
   *
   * @param out the file, ending in {@code .png} or {@code .npy}
   * @param samples shape {@code [count, channels, height, width]}; not changed
   * @param labels class of each sample, or {@code null}
   * @throws IOException if the file cannot be written
   * @throws IllegalArgumentException if the name ends otherwise, the shape is another or there is
   *     not one label for each sample
   */
  public static void write(Path out, INDArray samples, int @Nullable [] labels) throws IOException {
    requireExtension(out);
    if (samples.rank() != 4) {
      throw new IllegalArgumentException(
          "samples must have shape [count, channels, height, width], got "
              + Arrays.toString(samples.shape()));
    }
    if (labels != null && labels.length != samples.size(0)) {
      throw new IllegalArgumentException(
          "labels must be one for each of the %d samples, got %d"
              .formatted(samples.size(0), labels.length));
    }
    if (endsWith(out, PNG)) {
      ImageGrid.fitting(samples).writePng(out, samples);
      return;
    }
    NpyFile.write(out, samples.castTo(DataType.FLOAT));
    String name = String.valueOf(out.getFileName());
    Path labelFile =
        out.resolveSibling(name.substring(0, name.length() - NPY.length()) + ".labels.npy");
    if (labels == null) {
      Files.deleteIfExists(labelFile);
    } else {
      NpyFile.write(labelFile, Nd4j.createFromArray(labels));
    }
  }

  /**
   * Checks that samples can be written to a file of this name; worth doing before drawing them.
   *
   * @param out the file
   * @throws IllegalArgumentException if its name does not end in {@code .png} or {@code .npy}
   */
  public static void requireExtension(Path out) {
    if (!endsWith(out, PNG) && !endsWith(out, NPY)) {
      throw new IllegalArgumentException("out must end in .png or .npy, got " + out);
    }
  }

  private static boolean endsWith(Path out, String extension) {
    return out.toString().toLowerCase(Locale.ROOT).endsWith(extension);
  }
}
