package org.meanflow.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class DataSourceTest {
  @TempDir Path directory;

  @Test
  void plainNamesAreRelativeToTheFolder() throws IOException {
    Path file = Files.write(directory.resolve("train"), new byte[] {1});
    assertThat(bytes(DataSource.locate("train", directory))).containsExactly(1);
    assertThat(bytes(DataSource.locate(file.toString(), null))).containsExactly(1);
  }

  @Test
  void gzStandsInForAMissingFileOnly() throws IOException {
    Files.write(directory.resolve("train.gz"), new byte[] {2});
    assertThat(bytes(DataSource.locate("train", directory))).containsExactly(2);
    Files.write(directory.resolve("train"), new byte[] {1});
    assertThat(bytes(DataSource.locate("train", directory))).containsExactly(1);
  }

  @Test
  void resourcesAreFoundOnTheClassPath() throws IOException {
    DataSource source = DataSource.locate("resource:org/meanflow/train/recipes/digits.yaml", null);
    assertThat(source.name()).isEqualTo("resource:org/meanflow/train/recipes/digits.yaml");
    assertThat(bytes(source)).isNotEmpty();
  }

  @Test
  void errorsNameTheRemedy() {
    assertThatThrownBy(() -> DataSource.locate("train", null))
        .isInstanceOf(DataException.class)
        .hasMessage(
            "train: is relative to a folder that is not given; name the folder with --data");
    assertThatThrownBy(() -> DataSource.locate("train", directory))
        .isInstanceOf(DataException.class)
        .hasMessage(
            directory.resolve("train")
                + ": there is no such file, nor one with .gz behind its name; name the folder that"
                + " holds it with --data");
  }

  @Test
  void aStarStandsForAnyText() throws IOException {
    Path folder = Files.createDirectory(directory.resolve("train"));
    for (String name : List.of("b.npy", "a.npy", "a.labels.npy", "a.npz", "xa.npyx", "a.np.y")) {
      Files.write(folder.resolve(name), new byte[0]);
    }
    assertThat(DataSource.matching("train/*.npy", directory))
        .containsExactly(folder.resolve("a.npy"), folder.resolve("b.npy"));
    assertThat(DataSource.matching("a*.np*", folder))
        .containsExactly(
            folder.resolve("a.np.y"), folder.resolve("a.npy"), folder.resolve("a.npz"));
    assertThat(DataSource.matching(folder + "/b.npy", null))
        .containsExactly(folder.resolve("b.npy"));
    assertThatThrownBy(() -> DataSource.matching("train/*.bin", directory))
        .isInstanceOf(DataException.class)
        .hasMessageStartingWith(folder + ": there is no file *.bin in it; name the folder");
    assertThatThrownBy(() -> DataSource.matching("test/*.npy", directory))
        .isInstanceOf(DataException.class)
        .hasMessageContaining("test: there is no such file");
    assertThatThrownBy(() -> DataSource.matching("*.npy", null))
        .isInstanceOf(DataException.class)
        .hasMessageContaining("name the folder with --data");
    assertThatThrownBy(() -> DataSource.matching("a\0b/*.npy", directory))
        .isInstanceOf(DataException.class)
        .hasMessageContaining("a?b/: is no path");
  }

  private static byte[] bytes(DataSource source) throws IOException {
    try (InputStream in = source.open()) {
      return in.readAllBytes();
    }
  }
}
