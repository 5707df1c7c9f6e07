package org.meanflow.sample;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

class NpyFileTest {
  @TempDir Path directory;

  private Path file;

  @BeforeEach
  void nameTheFile() {
    file = directory.resolve("array.npy");
  }

  static Stream<INDArray> arrays() {
    INDArray numbers = Nd4j.linspace(DataType.DOUBLE, -3, 0.25, 24);
    return Stream.of(
        numbers.reshape('c', 2, 3, 4),
        numbers.castTo(DataType.FLOAT).reshape('c', 24, 1),
        Nd4j.createFromArray(3, Integer.MIN_VALUE),
        Nd4j.createFromArray(Long.MAX_VALUE),
        Nd4j.scalar(2.5f));
  }

  @ParameterizedTest
  @MethodSource("arrays")
  void whatIsWrittenIsRead(INDArray array) throws IOException {
    NpyFile.write(file, array);
    INDArray read = NpyFile.read(file);
    assertThat(read.dataType()).isEqualTo(array.dataType());
    assertThat(read.shape()).isEqualTo(array.shape());
    assertThat(read).isEqualTo(array);
  }

  /** As numpy.save writes it: no comma after the last size, but for a single one. */
  @Test
  void numpysOwnHeaderIsRead() throws IOException {
    write("{'descr': '<i4', 'fortran_order': False, 'shape': (1, 2), }", 8);
    assertThat(NpyFile.read(file).shape()).isEqualTo(new long[] {1, 2});
    write("{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }", 8);
    assertThat(NpyFile.read(file).shape()).isEqualTo(new long[] {2});
  }

  @Test
  void filesOfAnotherFormatAreRefused() throws IOException {
    assertThatThrownBy(() -> NpyFile.read(file)).isInstanceOf(NoSuchFileException.class);
    Files.write(file, new byte[3]);
    assertRefused("it is too short");
    Files.write(file, new byte[100]);
    assertRefused("it does not begin as a .npy file");
    write("{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }", 8);
    assertRefused("row-major");
    write("{'descr': '<f2', 'fortran_order': False, 'shape': (4,), }", 8);
    assertRefused("<f4, <f8, <i4 or <i8");
  }

  @Test
  void filesOfTheWrongLengthAreRefused() throws IOException {
    NpyFile.write(file, Nd4j.createFromArray(1.0, 2.0));
    byte[] whole = Files.readAllBytes(file);
    Files.write(file, Arrays.copyOf(whole, whole.length - 1));
    assertRefused("16 bytes of data must follow its header, got 15");
    Files.write(file, Arrays.copyOf(whole, whole.length + 1));
    assertRefused("16 bytes of data must follow its header, got 17");
    Files.write(file, Arrays.copyOf(whole, 40));
    assertRefused("it breaks off in its header");
    write("{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", 0);
    assertRefused("bytes of data must follow its header, got 0");
  }

  private void assertRefused(String problem) {
    assertThatThrownBy(() -> NpyFile.read(file))
        .isInstanceOf(IOException.class)
        .hasMessageContaining(file.toString())
        .hasMessageContaining(problem);
  }

  private void write(String header, int dataBytes) throws IOException {
    byte[] text = (header + "\n").getBytes(StandardCharsets.US_ASCII);
    byte[] bytes = new byte[10 + text.length + dataBytes];
    byte[] start = {(byte) 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (byte) text.length, 0};
    System.arraycopy(start, 0, bytes, 0, start.length);
    System.arraycopy(text, 0, bytes, start.length, text.length);
    Files.write(file, bytes);
  }
}
