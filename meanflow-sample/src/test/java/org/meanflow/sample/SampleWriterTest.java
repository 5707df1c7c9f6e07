package org.meanflow.sample;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import javax.imageio.ImageIO;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;
import org.nd4j.linalg.indexing.NDArrayIndex;

class SampleWriterTest {
  private static final INDArray SAMPLES =
      Nd4j.arange(24).castTo(DataType.FLOAT).subi(12).reshape('c', 2, 3, 2, 2);

  @TempDir Path directory;

  @Test
  void npyHoldsSamplesAndLabels() throws IOException {
    Path out = directory.resolve("deep/samples.npy");
    SampleWriter.write(out, SAMPLES, new int[] {3, -1});

    ByteBuffer samples = npy(out, "'<f4'", "(2,3,2,2,)");
    assertThat(samples.remaining()).isEqualTo(4 * 24);
    for (int i = 0; i < 24; i++) {
      assertThat(samples.getFloat()).isEqualTo(i - 12);
    }
    ByteBuffer labels = npy(directory.resolve("deep/samples.labels.npy"), "'<i4'", "(2,)");
    assertThat(labels.remaining()).isEqualTo(8);
    assertThat(labels.getInt()).isEqualTo(3);
    assertThat(labels.getInt()).isEqualTo(-1);
  }

  @Test
  void float64SamplesBecomeFloat32() throws IOException {
    Path out = directory.resolve("samples.NPY");
    SampleWriter.write(out, SAMPLES.castTo(DataType.DOUBLE), null);
    npy(out, "'<f4'", "(2,3,2,2,)");
  }

  @Test
  void labelsOfEarlierSamplesDoNotLinger() throws IOException {
    Path out = directory.resolve("samples.npy");
    SampleWriter.write(out, SAMPLES, new int[2]);
    SampleWriter.write(out, SAMPLES, null);
    assertThat(directory.resolve("samples.labels.npy")).doesNotExist();
  }

  @Test
  void npyFollowsTheArrayNotItsBuffer() throws IOException {
    INDArray all = Nd4j.arange(12).castTo(DataType.DOUBLE).reshape('c', 3, 4);
    Path out = directory.resolve("array.npy");
    for (INDArray view :
        new INDArray[] {
          all.dup('f'), all.transpose(), all.get(NDArrayIndex.interval(1, 3), NDArrayIndex.all())
        }) {
      NpyFile.write(out, view);
      ByteBuffer data = npy(out, "'<f8'", "(" + view.size(0) + "," + view.size(1) + ",)");
      for (int i = 0; i < view.size(0); i++) {
        for (int j = 0; j < view.size(1); j++) {
          assertThat(data.getDouble()).isEqualTo(view.getDouble(i, j));
        }
      }
    }
    NpyFile.write(out, Nd4j.createFromArray(Long.MIN_VALUE, 7));
    assertThat(npy(out, "'<i8'", "(2,)").getLong()).isEqualTo(Long.MIN_VALUE);
    NpyFile.write(out, Nd4j.scalar(2.5f));
    assertThat(npy(out, "'<f4'", "()").getFloat()).isEqualTo(2.5f);
    assertThatThrownBy(() -> NpyFile.write(out, Nd4j.createFromArray(true)))
        .hasMessage("array must be of type FLOAT, DOUBLE, INT or LONG, got BOOL");
  }

  @Test
  void pngIsAGrid() throws IOException {
    Path out = directory.resolve("grid.PNG");
    SampleWriter.write(out, Nd4j.zeros(4, 1, 32, 32), new int[4]);
    assertThat(ImageIO.read(out.toFile()).getWidth()).isEqualTo(64 + 2 + 64);
  }

  @Test
  void badRequestsAreRefusedBeforeAnythingIsWritten() throws IOException {
    assertThatThrownBy(() -> SampleWriter.write(directory.resolve("x.jpg"), SAMPLES, null))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("out must end in .png or .npy, got " + directory.resolve("x.jpg"));
    Path out = directory.resolve("x.npy");
    assertThatThrownBy(() -> SampleWriter.write(out, SAMPLES, new int[3]))
        .hasMessage("labels must be one for each of the 2 samples, got 3");
    assertThatThrownBy(() -> SampleWriter.write(out, Nd4j.zeros(2, 2), null))
        .hasMessage("samples must have shape [count, channels, height, width], got [2, 2]");
    assertThat(directory).isEmptyDirectory();
  }

  @Test
  void anUnwritablePlaceIsNamed() throws IOException {
    Path file = Files.writeString(directory.resolve("file"), "");
    for (String name : new String[] {"x.png", "x.npy"}) {
      Path out = file.resolve(name);
      assertThatThrownBy(() -> SampleWriter.write(out, SAMPLES, null))
          .isInstanceOf(IOException.class)
          .hasMessageContaining("cannot write " + out)
          .hasMessageContaining(file + " is a file, not a directory")
          .hasMessageContaining("choose another place");
    }
  }

  /** The data of a .npy file, after checking its header. */
  private static ByteBuffer npy(Path path, String type, String shape) throws IOException {
    ByteBuffer bytes = ByteBuffer.wrap(Files.readAllBytes(path)).order(ByteOrder.LITTLE_ENDIAN);
    byte[] magic = new byte[8];
    bytes.get(magic);
    assertThat(magic).containsExactly(0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0);
    byte[] header = new byte[bytes.getShort()];
    bytes.get(header);
    assertThat(bytes.position() % 64).isZero();
    assertThat(new String(header, StandardCharsets.US_ASCII))
        .startsWith("{'descr': %s, 'fortran_order': False, 'shape': %s, }".formatted(type, shape))
        .endsWith(" \n");
    return bytes;
  }
}
