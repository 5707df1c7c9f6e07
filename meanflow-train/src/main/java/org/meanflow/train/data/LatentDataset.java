package org.meanflow.train.data;

import java.io.BufferedInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.channels.FileChannel;
import java.nio.channels.FileChannel.MapMode;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Objects;
import java.util.zip.CRC32;
import java.util.zip.CheckedInputStream;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;
import org.jspecify.annotations.Nullable;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.nn.weights.Dtype;
import org.meanflow.nn.weights.Safetensors;
import org.meanflow.nn.weights.TensorInfo;

/**
 * Latents of an autoencoder in one or more files, the shards. Of each shard the array {@code
 * latents} or {@code moments} is read, as {@link LatentForm.Content} says, of a floating type, and
 * {@code labels}, {@code [n]}, of an integer type, if there are classes:
 *
 * <ul>
 *   <li>{@code NAME.safetensors} holds both; it is mapped, so that it may be larger than memory;
 *   <li>{@code NAME.npz} holds both; it is read into memory;
 *   <li>{@code NAME.npy} holds the one, and {@code NAME.labels.npy} beside it the other; it is
 *       mapped.
 * </ul>
 *
 * <p>Where moments are stored, training sees a draw from the posterior, mean + std · ε, with
 * another ε in each epoch.
 */
public final class LatentDataset extends PerImageDataset {
  private static final double LEAST_LOGVAR = -30;
  private static final double MOST_LOGVAR = 20;

  private static final String LABELS = "labels";
  private static final String CHECK = "check how it was made";

  private final LatentForm form;
  private final double[] slope; // x = slope · z + shift, for each channel
  private final double[] shift;
  private final List<Shard> shards;
  private final int[] first;
  private final List<AutoCloseable> open;

  /** The images of a file. */
  private record Shard(String file, NpyArray.Data images, int @Nullable [] labels) {
    int size() {
      return (int) images.shape()[0];
    }
  }

  private LatentDataset(
      LatentForm form,
      List<Shard> shards,
      int[] first,
      int size,
      int classes,
      List<AutoCloseable> open)
      throws DataException {
    super(size, classes, imageShape(form, shards.getFirst()));
    this.form = form;
    this.shards = shards;
    this.first = first;
    this.open = open;
    int channels = (int) imageShape()[0];
    double[] mean = perChannel("mean", form.mean(), channels, 0);
    double[] std = perChannel("std", form.std(), channels, 1);
    double scale = form.scale() == null ? 1 : form.scale();
    slope = new double[channels];
    shift = new double[channels];
    for (int i = 0; i < channels; i++) {
      slope[i] = scale / std[i];
      shift[i] = -mean[i] * slope[i];
    }
  }

  private static double[] perChannel(
      String key, @Nullable List<Double> values, int channels, double otherwise)
      throws DataException {
    if (values == null || values.size() == 1) {
      double[] all = new double[channels];
      Arrays.fill(all, values == null ? otherwise : values.getFirst());
      return all;
    }
    if (values.size() != channels) {
      throw new DataException(
          "data.latents." + key,
          "there must be a value for each of %d channels, got %s".formatted(channels, values),
          "mend the recipe");
    }
    return values.stream().mapToDouble(Double::doubleValue).toArray();
  }

  private static long[] imageShape(LatentForm form, Shard shard) {
    long[] shape = shard.images.shape();
    return new long[] {shape[1] / form.content().parts(), shape[2], shape[3]};
  }

  /**
   * Opens shards.
   *
   * @param paths the files, at least one; images are numbered in their order
   * @param form what they hold and how to normalise it
   * @param classes number of classes; 0 for no labels
   * @return the data set, to be closed
   * @throws DataException if a file is missing or damaged, holds something else, shapes differ, or
   *     a label is not below {@code classes}
   */
  public static LatentDataset open(List<Path> paths, LatentForm form, int classes)
      throws DataException {
    if (paths.isEmpty()) {
      throw new IllegalArgumentException("paths must not be empty");
    }
    if (classes < 0) {
      throw new IllegalArgumentException("classes must be >= 0, got " + classes);
    }
    Opener opener = new Opener(form.content(), classes);
    try {
      List<Shard> shards = new ArrayList<>();
      int[] first = new int[paths.size()];
      int size = 0;
      for (int i = 0; i < first.length; i++) {
        Shard shard = opener.open(paths.get(i));
        opener.requireAlike(shards.isEmpty() ? shard : shards.getFirst(), shard, size);
        shards.add(shard);
        first[i] = size;
        size += shard.size();
      }
      return new LatentDataset(form, shards, first, size, classes, opener.open);
    } catch (DataException | RuntimeException e) {
      closeAll(opener.open);
      throw e;
    }
  }

  @Override
  protected void read(int index, @Nullable Visit visit, double[] image) throws DataException {
    int found = Arrays.binarySearch(first, index);
    int number = found >= 0 ? found : -found - 2;
    Shard shard = shards.get(number);
    Dtype dtype = shard.images.dtype();
    MemorySegment values = shard.images.values();
    long start = (long) (index - first[number]) * form.content().parts() * image.length;
    int pixels = (int) (imageShape()[1] * imageShape()[2]);
    RandomStream noise =
        visit == null || form.content() == LatentForm.Content.LATENTS
            ? null
            : visit.random(Purpose.POSTERIOR);
    for (int i = 0; i < image.length; i++) {
      double z = dtype.getFloating(values, start + i);
      if (noise != null) {
        z += std(dtype.getFloating(values, start + image.length + i)) * noise.nextNormal();
      }
      int channel = i / pixels;
      image[i] = slope[channel] * z + shift[channel];
      if (!Double.isFinite(image[i])) {
        throw new DataException(
            shard.file,
            "element %d of image %d is not finite or has no standard deviation"
                .formatted(i, index - first[number]),
            CHECK);
      }
    }
  }

  /** The standard deviation, NaN for what is none. */
  private double std(double stored) {
    return switch (form.content()) {
      case MEAN_LOGVAR -> Math.exp(0.5 * Math.clamp(stored, LEAST_LOGVAR, MOST_LOGVAR));
      case MEAN_STD -> stored >= 0 ? stored : Double.NaN;
      case LATENTS -> 0;
    };
  }

  @Override
  protected int label(int index) {
    int found = Arrays.binarySearch(first, index);
    int number = found >= 0 ? found : -found - 2;
    int[] labels = shards.get(number).labels;
    if (labels == null) {
      throw new IllegalStateException("labels were not read");
    }
    return labels[index - first[number]];
  }

  @Override
  public void close() {
    closeAll(open);
  }

  private static void closeAll(List<AutoCloseable> open) {
    for (AutoCloseable each : open) {
      switch (each) {
        case Safetensors file -> file.close();
        case Arena arena -> arena.close();
        default -> throw new AssertionError(each);
      }
    }
    open.clear();
  }

  /** Opens shards and keeps what has to be closed. */
  private static final class Opener {
    private final LatentForm.Content content;
    private final int classes;
    private final List<AutoCloseable> open = new ArrayList<>();

    /** How many bytes of .npz may still be read: copies come and go meanwhile. */
    private long memory = Runtime.getRuntime().maxMemory() / 4;

    Opener(LatentForm.Content content, int classes) {
      this.content = content;
      this.classes = classes;
    }

    Shard open(Path path) throws DataException {
      String name = path.toString().toLowerCase(Locale.ROOT);
      try {
        if (name.endsWith(".safetensors")) {
          return safetensors(path);
        }
        if (name.endsWith(".npz")) {
          return npz(path);
        }
        if (name.endsWith(".npy")) {
          return npy(path);
        }
      } catch (DataException e) {
        throw e;
      } catch (IOException e) {
        throw DataException.unreadable(path, e);
      }
      throw new DataException(
          path.toString(), "its name must end in .safetensors, .npz or .npy", "name other files");
    }

    private Shard safetensors(Path path) throws IOException {
      Safetensors file = Safetensors.open(path);
      open.add(file);
      NpyArray.Data labels = classes == 0 ? null : tensor(file, LABELS);
      return shard(path.toString(), tensor(file, content.array()), labels);
    }

    private static NpyArray.Data tensor(Safetensors file, String name) throws IOException {
      MemorySegment values = file.data(name);
      TensorInfo info = Objects.requireNonNull(file.tensors().get(name));
      return new NpyArray.Data(info.dtype(), info.shape(), values);
    }

    private Shard npz(Path path) throws IOException {
      try (ZipFile zip = new ZipFile(path.toFile())) {
        NpyArray.Data labels = classes == 0 ? null : entry(path, zip, LABELS);
        return shard(path.toString(), entry(path, zip, content.array()), labels);
      } catch (IllegalArgumentException e) { // a name that is no text
        throw new DataException(path.toString(), "is no valid zip: " + e.getMessage(), CHECK, e);
      }
    }

    private NpyArray.Data entry(Path path, ZipFile zip, String name) throws IOException {
      String place = path + ": " + name + ".npy";
      ZipEntry entry = zip.getEntry(name + ".npy");
      if (entry == null) {
        throw new DataException(path.toString(), "there is no " + name + ".npy in it", CHECK);
      }
      CRC32 checksum = new CRC32();
      try (InputStream stored = zip.getInputStream(entry);
          InputStream in = new CheckedInputStream(new BufferedInputStream(stored), checksum)) {
        NpyArray.Data data = NpyArray.readAll(place, in, memory);
        if (checksum.getValue() != entry.getCrc()) {
          throw new DataException(place, "is damaged: its checksum is another one", CHECK);
        }
        memory -= data.values().byteSize();
        return data;
      } catch (DataException e) {
        throw e;
      } catch (IOException e) {
        throw new DataException(place, "cannot be unpacked: " + e.getMessage(), CHECK, e);
      }
    }

    private Shard npy(Path path) throws IOException {
      NpyArray.Data images = mapped(path);
      if (classes == 0) {
        return shard(path.toString(), images, null);
      }
      String name = path.toString();
      Path labels = Path.of(name.substring(0, name.length() - 4) + ".labels.npy");
      try {
        return shard(name, images, mapped(labels));
      } catch (NoSuchFileException e) {
        throw new DataException(
            labels.toString(), "there is no such file", "the labels of " + path + " belong there");
      }
    }

    private NpyArray.Data mapped(Path path) throws IOException {
      NpyArray header;
      try (InputStream in = new BufferedInputStream(Files.newInputStream(path))) {
        header = NpyArray.read(path.toString(), in);
      }
      Arena arena = Arena.ofShared();
      open.add(arena);
      try (FileChannel channel = FileChannel.open(path)) {
        return header.map(
            path.toString(), channel.map(MapMode.READ_ONLY, 0, channel.size(), arena));
      }
    }

    private Shard shard(String file, NpyArray.Data images, NpyArray.@Nullable Data labels)
        throws DataException {
      long[] shape = images.shape();
      int parts = content.parts();
      boolean fits =
          shape.length == 4
              && Arrays.stream(shape).allMatch(each -> each > 0)
              && shape[1] % parts == 0
              && images.dtype().isFloating();
      if (!fits) {
        throw new DataException(
            file,
            "%s must be floating [n, %schannels, height, width], got %s %s"
                .formatted(
                    content.array(),
                    parts == 1 ? "" : "2·",
                    images.dtype(),
                    Arrays.toString(shape)),
            CHECK);
      }
      long values = shape[1] * shape[2] * shape[3]; // of sizes that a file really has
      if (shape[0] > Integer.MAX_VALUE || values > Integer.MAX_VALUE - 8) {
        throw new DataException(
            file, "%s are too many for a shard".formatted(Arrays.toString(shape)), CHECK);
      }
      return new Shard(file, images, labels == null ? null : labels(file, labels, shape[0]));
    }

    private int[] labels(String file, NpyArray.Data labels, long count) throws DataException {
      if (labels.dtype().isFloating() || labels.shape().length != 1 || labels.shape()[0] != count) {
        throw new DataException(
            file,
            "labels must be integers [%d], got %s %s"
                .formatted(count, labels.dtype(), Arrays.toString(labels.shape())),
            CHECK);
      }
      int[] result = new int[(int) count];
      for (int i = 0; i < result.length; i++) {
        long label = labels.dtype().getInteger(labels.values(), i);
        if (label < 0 || label >= classes) {
          throw new DataException(
              file,
              "label %d must be in [0, %d), got %d".formatted(i, classes, label),
              "check the file or model.classes");
        }
        result[i] = (int) label;
      }
      return result;
    }

    void requireAlike(Shard reference, Shard shard, int before) throws DataException {
      long[] expected = reference.images.shape();
      long[] shape = shard.images.shape();
      if (!Arrays.equals(expected, 1, 4, shape, 1, 4)) {
        throw new DataException(
            shard.file,
            "its shape %s does not go with %s of %s"
                .formatted(Arrays.toString(shape), Arrays.toString(expected), reference.file),
            CHECK);
      }
      if (before + shape[0] > Integer.MAX_VALUE) {
        throw new DataException(shard.file, "there are 2^31 images or more", "use fewer shards");
      }
    }
  }
}
