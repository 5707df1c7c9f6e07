package org.meanflow.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.meanflow.nn.weights.Dtype;
import org.meanflow.nn.weights.SafetensorsWriter;
import org.nd4j.linalg.api.buffer.DataType;

class LatentDatasetTest {
  private static final int IMAGE = 2 * 3 * 2; // channels · height · width

  @TempDir Path directory;

  private static LatentForm form(LatentForm.Content content) {
    return new LatentForm(content, null, null, null);
  }

  /** Values that float32 holds exactly. */
  private static float[] values(int count, int from) {
    float[] values = new float[count];
    for (int i = 0; i < count; i++) {
      values[i] = (from + i) / 8f;
    }
    return values;
  }

  private Path shard(
      String ending, String array, int images, int channels, int from, long... labels)
      throws IOException {
    Path file = directory.resolve("shard-" + from + ending);
    float[] values = values(images * channels * 6, from);
    byte[] npy = Npz.npy("<f4", "(%d, %d, 3, 2)".formatted(images, channels), Npz.floats(values));
    byte[] labelNpy = Npz.npy("<i8", "(" + images + ",)", Npz.longs(labels));
    switch (ending) {
      case ".npz" ->
          Files.write(file, Npz.zip(Map.of(array + ".npy", npy, "labels.npy", labelNpy)));
      case ".npy" -> {
        Files.write(file, npy);
        Files.write(directory.resolve("shard-" + from + ".labels.npy"), labelNpy);
      }
      default ->
          new SafetensorsWriter()
              .add(array, Dtype.F32, new long[] {images, channels, 3, 2}, values)
              .add("labels", Dtype.I64, new long[] {images}, labels)
              .write(file);
    }
    return file;
  }

  @ParameterizedTest
  @ValueSource(strings = {".safetensors", ".npz", ".npy"})
  void shardsAreReadInTurn(String ending) throws IOException {
    shard(ending, "latents", 3, 2, 0, 4, 0, 2);
    shard(ending, "latents", 2, 2, 500, 1, 3);
    List<Path> files = DataSource.matching("shard-*" + ending, directory);
    assertThat(files).hasSize(2);
    try (LatentDataset dataset = LatentDataset.open(files, form(LatentForm.Content.LATENTS), 5)) {
      assertThat(dataset.size()).isEqualTo(5);
      assertThat(dataset.imageShape()).containsExactly(2, 3, 2);
      ImageDataset.Batch batch = dataset.batch(new int[] {4, 0, 2}, DataType.DOUBLE);
      assertThat(batch.labels()).containsExactly(3, 4, 2);
      double[] x = batch.x().data().asDouble();
      for (int i = 0; i < IMAGE; i++) {
        assertThat(x[i]).isEqualTo((500 + IMAGE + i) / 8.0);
        assertThat(x[IMAGE + i]).isEqualTo(i / 8.0);
        assertThat(x[2 * IMAGE + i]).isEqualTo((2 * IMAGE + i) / 8.0);
      }
      // Latents have nothing random.
      DataOrder.Samples samples = new DataOrder.Samples(new int[] {4}, new long[] {9});
      assertThat(dataset.batch(samples, 1, DataType.DOUBLE).x().data().asDouble())
          .isEqualTo(Arrays.copyOf(x, IMAGE));
    }
  }

  @Test
  void channelsAreNormalised() throws IOException {
    Path file = shard(".npz", "latents", 1, 2, 0, 0);
    LatentForm form =
        new LatentForm(LatentForm.Content.LATENTS, 0.5, List.of(1.0, -2.0), List.of(4.0, 0.25));
    try (LatentDataset dataset = LatentDataset.open(List.of(file), form, 0)) {
      double[] x = dataset.batch(new int[] {0}, DataType.DOUBLE).x().data().asDouble();
      for (int i = 0; i < IMAGE; i++) {
        double z = i / 8.0;
        // All of these numbers are sums of few powers of two: exact.
        assertThat(x[i]).isEqualTo(i < 6 ? 0.5 * (z - 1) / 4 : 0.5 * (z + 2) / 0.25);
      }
    }
  }

  /** Draws of 4000 epochs: their moments are those stored, within four standard errors. */
  @ParameterizedTest
  @EnumSource(names = {"MEAN_LOGVAR", "MEAN_STD"})
  void trainingSeesDrawsFromThePosterior(LatentForm.Content content) throws IOException {
    float[] moments = values(2 * IMAGE, 0);
    for (int i = 0; i < IMAGE; i++) {
      moments[IMAGE + i] = content == LatentForm.Content.MEAN_STD ? i / 4f : i / 4f - 2;
    }
    Path file = directory.resolve("moments.safetensors");
    new SafetensorsWriter().add("moments", Dtype.F32, new long[] {1, 4, 3, 2}, moments).write(file);
    int epochs = 4000;
    try (LatentDataset dataset = LatentDataset.open(List.of(file), form(content), 0)) {
      long[] number = new long[epochs];
      Arrays.setAll(number, i -> i);
      DataOrder.Samples all = new DataOrder.Samples(new int[epochs], number);
      double[] x = dataset.batch(all, 3, DataType.DOUBLE).x().data().asDouble();
      double[] mean = dataset.batch(new int[] {0}, DataType.DOUBLE).x().data().asDouble();
      for (int i = 0; i < IMAGE; i++) {
        double stored = moments[IMAGE + i];
        double std = content == LatentForm.Content.MEAN_STD ? stored : Math.exp(stored / 2);
        double sum = 0;
        double squares = 0;
        for (int epoch = 0; epoch < epochs; epoch++) {
          double delta = x[epoch * IMAGE + i] - mean[i];
          sum += delta;
          squares += delta * delta;
        }
        assertThat(mean[i]).isEqualTo(i / 8.0);
        assertThat(Math.abs(sum / epochs)).isLessThanOrEqualTo(4 * std / Math.sqrt(epochs));
        double error = Math.abs(squares / epochs - std * std);
        assertThat(error).isLessThanOrEqualTo(4 * std * std * Math.sqrt(2.0 / epochs));
      }
      // A draw is a function of (seed, epoch, index), whatever else is in the batch.
      DataOrder.Samples one = new DataOrder.Samples(new int[1], new long[] {17});
      assertThat(dataset.batch(one, 3, DataType.DOUBLE).x().data().asDouble())
          .isEqualTo(Arrays.copyOfRange(x, 17 * IMAGE, 18 * IMAGE));
      assertThat(dataset.batch(one, 4, DataType.DOUBLE).x().data().asDouble())
          .isNotEqualTo(Arrays.copyOfRange(x, 17 * IMAGE, 18 * IMAGE));
    }
  }

  @Test
  void halfPrecisionIsExact() throws IOException {
    byte[] bytes = new byte[2 * IMAGE];
    for (int i = 0; i < IMAGE; i++) {
      short half = Float.floatToFloat16(i / 4f - 1);
      bytes[2 * i] = (byte) half;
      bytes[2 * i + 1] = (byte) (half >> 8);
    }
    Path file = Files.write(directory.resolve("half.npy"), Npz.npy("<f2", "(1, 2, 3, 2)", bytes));
    try (LatentDataset dataset =
        LatentDataset.open(List.of(file), form(LatentForm.Content.LATENTS), 0)) {
      double[] x = dataset.batch(new int[] {0}, DataType.DOUBLE).x().data().asDouble();
      for (int i = 0; i < IMAGE; i++) {
        assertThat(x[i]).isEqualTo(i / 4.0 - 1);
      }
    }
  }

  @Test
  void whatDoesNotFitIsRefused() throws IOException {
    Path first = shard(".npz", "latents", 1, 2, 0, 0);
    Path other = shard(".npz", "latents", 1, 4, 1, 0);
    Path alone = shard(".npy", "latents", 1, 2, 7, 0);
    LatentForm latents = form(LatentForm.Content.LATENTS);
    assertThatThrownBy(() -> LatentDataset.open(List.of(first, other), latents, 0))
        .isInstanceOf(DataException.class)
        .hasMessageContaining("its shape [1, 4, 3, 2] does not go with [1, 2, 3, 2]");
    assertThatThrownBy(
            () -> LatentDataset.open(List.of(first), form(LatentForm.Content.MEAN_STD), 0))
        .hasMessageContaining("there is no moments.npy in it");
    LatentForm wrong =
        new LatentForm(LatentForm.Content.LATENTS, null, List.of(1.0, 2.0, 3.0), null);
    assertThatThrownBy(() -> LatentDataset.open(List.of(first), wrong, 0))
        .isInstanceOf(DataException.class)
        .hasMessageContaining("data.latents.mean: there must be a value for each of 2 channels");
    Files.delete(directory.resolve("shard-7.labels.npy"));
    assertThatThrownBy(() -> LatentDataset.open(List.of(alone), latents, 3))
        .isInstanceOf(DataException.class)
        .hasMessageContaining("shard-7.labels.npy: there is no such file");
    assertThatThrownBy(() -> LatentDataset.open(List.of(directory.resolve("x.pt")), latents, 0))
        .hasMessageContaining("its name must end in");
  }

  @Test
  void theFormRefusesWhatIsNoScale() {
    LatentForm.Content content = LatentForm.Content.LATENTS;
    assertThatThrownBy(() -> new LatentForm(content, Double.NaN, null, null))
        .hasMessage("scale must be finite and > 0, got NaN");
    assertThatThrownBy(() -> new LatentForm(content, 0.0, null, null))
        .hasMessageStartingWith("scale");
    assertThatThrownBy(() -> new LatentForm(content, null, List.of(Double.NaN), null))
        .hasMessageStartingWith("mean must be finite");
    assertThatThrownBy(() -> new LatentForm(content, null, null, List.of(1.0, 0.0)))
        .hasMessageStartingWith("std must be finite and > 0");
  }
}
