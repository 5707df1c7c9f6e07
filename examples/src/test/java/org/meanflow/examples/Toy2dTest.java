package org.meanflow.examples;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Path;
import javax.imageio.ImageIO;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

class Toy2dTest {
  @Test
  void writesAPlotAndADistance(@TempDir Path folder) throws IOException {
    Path plot = folder.resolve("deep/toy.png");
    StringWriter out = new StringWriter();
    int status =
        Toy2d.commandLine()
            .setOut(new PrintWriter(out))
            .execute("--steps", "3", "--out", plot.toString());
    assertThat(status).isZero();
    assertThat(out.toString()).contains("sliced Wasserstein distance").contains(plot.toString());
    assertThat(ImageIO.read(plot.toFile()).getWidth()).isGreaterThan(800);
  }

  @Test
  void refusesToTakeNoSteps() {
    assertThat(
            Toy2d.commandLine().setErr(new PrintWriter(new StringWriter())).execute("--steps", "0"))
        .isEqualTo(2);
  }

  /** A shift by d moves projections by d·cos φ: the root mean square is |d|/√2. */
  @Test
  void distanceOfAShift() {
    INDArray points = Nd4j.createFromArray(new double[][] {{0, 1}, {-2, 3}, {5, 5}});
    INDArray shifted = points.addRowVector(Nd4j.createFromArray(3.0, -4.0));
    assertThat(Toy2d.slicedWasserstein(points, points)).isZero();
    assertThat(Toy2d.slicedWasserstein(points, shifted)).isCloseTo(5 / Math.sqrt(2), within(1e-6));
  }
}
