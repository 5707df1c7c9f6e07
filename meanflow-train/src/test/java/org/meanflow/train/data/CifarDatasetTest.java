package org.meanflow.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.assertj.core.api.AbstractThrowableAssert;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.nd4j.linalg.api.buffer.DataType;

class CifarDatasetTest {
  @TempDir Path directory;

  /** A file of records with these labels; pixel j of record i is 31·i + 7·j. */
  private Path file(String name, int... labels) throws IOException {
    byte[] bytes = new byte[3073 * labels.length];
    for (int i = 0; i < labels.length; i++) {
      bytes[3073 * i] = (byte) labels[i];
      for (int j = 0; j < 3072; j++) {
        bytes[3073 * i + 1 + j] = (byte) (31 * i + 7 * j);
      }
    }
    return Files.write(directory.resolve(name), bytes);
  }

  @Test
  void imagesAreNumberedThroughTheFiles() throws IOException {
    List<Path> files = List.of(file("a", 3, 9), file("b", 0), file("c", 7, 1, 2));
    CifarDataset dataset = CifarDataset.read(files, 10);
    assertThat(dataset.size()).isEqualTo(6);
    assertThat(dataset.classes()).isEqualTo(10);
    assertThat(dataset.imageShape()).containsExactly(3, 32, 32);
    ImageDataset.Batch batch = dataset.batch(new int[] {0, 1, 2, 3, 4, 5}, DataType.DOUBLE);
    assertThat(batch.labels()).containsExactly(3, 9, 0, 7, 1, 2);
    int[] inFile = {0, 1, 0, 0, 1, 2};
    for (int i = 0; i < 6; i++) {
      // Planes of red, green and blue, rows from the top: byte 1024·channel + 32·row + column.
      int pixel = (31 * inFile[i] + 7 * (2 * 1024 + 5 * 32 + 9)) & 0xff;
      assertThat(batch.x().getDouble(i, 2, 5, 9)).isEqualTo(pixel / 127.5 - 1);
    }
  }

  @Test
  void withoutClassesThereAreNoLabels() throws IOException {
    CifarDataset dataset = CifarDataset.read(List.of(file("a", 3)), 0);
    assertThat(dataset.batch(new int[] {0}, DataType.FLOAT).labels()).isNull();
  }

  @Test
  void refusesOtherSizesAndLabels() throws IOException {
    Path file = file("data", 3, 4, 5);
    byte[] bytes = Files.readAllBytes(file);
    Files.write(file, Arrays.copyOf(bytes, 5000));
    refused(file).hasMessageContaining("data: byte 5000: a file of CIFAR-10 has records of 3073");
    Files.write(file, new byte[0]);
    refused(file).hasMessageContaining("data: byte 0: ");
    bytes[2 * 3073] = 10;
    Files.write(file, bytes);
    refused(file).hasMessageContaining("data: byte 6146: label must be in [0, 10), got 10");
    Files.delete(file);
    refused(file).hasMessageContaining("data: there is no such file");
    Files.createDirectory(file);
    refused(file).hasMessageStartingWith(file + ": ");
  }

  private static AbstractThrowableAssert<?, ?> refused(Path file) {
    return assertThatThrownBy(() -> CifarDataset.read(List.of(file), 10))
        .isInstanceOf(DataException.class);
  }
}
