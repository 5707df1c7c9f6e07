package org.meanflow.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.cuda.CudaException;
import org.meanflow.nn.engine.cuda.EmulatedDevice;
import org.meanflow.train.data.DataException;
import org.meanflow.train.data.ImageDataset;
import org.meanflow.train.recipe.Recipe;
import org.meanflow.train.run.Metrics;
import org.meanflow.train.run.MetricsReader;
import org.meanflow.train.run.RunDirectory;
import org.nd4j.linalg.api.buffer.DataType;

/** Whole runs on two GPUs that NCCL joins, all of them emulated. */
@Tag("cuda-emulated")
@Timeout(120) // a device that waits for another for ever
class SeveralGpusTest {
  /** float32: 1e-7 of each number, and a few steps. */
  private static final double TOLERANCE = 1e-5;

  @TempDir Path folder;

  @BeforeEach
  void start() {
    EmulatedDevice.use(2);
  }

  @AfterEach
  void release() {
    EmulatedDevice.release();
  }

  private RunDirectory run(String name, Recipe recipe, ImageDataset data, String... gpus)
      throws IOException {
    RunDirectory directory = RunDirectory.create(folder.resolve(name), recipe);
    try (Devices devices = Devices.gpus(Precision.FP32, List.of(gpus))) {
      assertThat(new TrainingRun(recipe, directory, data, devices).run(null))
          .isEqualTo(TrainingRun.Outcome.FINISHED);
    }
    return directory;
  }

  private static List<Metrics> metrics(RunDirectory directory) throws IOException {
    return new MetricsReader(directory.metrics()).read();
  }

  @Test
  void twoGpusDoWhatOneDoesInTwoParts() throws IOException {
    Recipe recipe = TinyRun.recipe("run.batch=8", "run.steps=6");
    ImageDataset data = new TinyRun.Greys(false);
    List<Metrics> one = metrics(run("one", recipe.with(List.of("run.accumulate=2")), data, "1"));
    RunDirectory pair = run("two", recipe, data, "0", "1");
    List<Metrics> two = metrics(pair);

    assertThat(two).hasSize(6);
    for (int i = 0; i < 6; i++) {
      double expected = one.get(i).mse();
      assertThat(two.get(i).mse()).isCloseTo(expected, within(TOLERANCE * expected));
      double norm = one.get(i).gradNorm();
      assertThat(two.get(i).gradNorm()).isCloseTo(norm, within(TOLERANCE * norm));
    }
    assertThat(two.getFirst().mse()).isNotEqualTo(two.getLast().mse());

    // And on they go from a checkpoint, both of them.
    try (Devices devices = Devices.gpus(Precision.FP32, List.of("0", "1"))) {
      new TrainingRun(recipe, pair, data, devices).run(pair.checkpoint(4));
    }
    List<Metrics> again = metrics(pair);
    assertThat(again).hasSize(6);
    assertThat(again.getLast().time()).isAfter(two.getLast().time());
    assertThat(again.getLast().mse()).isEqualTo(two.getLast().mse());
    assertThat(again.getLast().gradNorm()).isEqualTo(two.getLast().gradNorm());
  }

  /** Greys of which one cannot be read: whichever device meets it first fails alone. */
  private record Unreadable(ImageDataset whole) implements ImageDataset {
    @Override
    public int size() {
      return whole.size();
    }

    @Override
    public int classes() {
      return whole.classes();
    }

    @Override
    public long[] imageShape() {
      return whole.imageShape();
    }

    @Override
    public Batch batch(int[] indices, DataType type) throws DataException {
      for (int index : indices) {
        if (index == 7) {
          throw new IllegalStateException("image 7 is damaged");
        }
      }
      return whole.batch(indices, type);
    }
  }

  @Test
  void whatFailsOnOneFailsTheRunAndNobodyWaitsForIt() throws IOException {
    Recipe recipe = TinyRun.recipe("run.batch=8", "run.steps=8");
    assertThatThrownBy(
            () -> run("damaged", recipe, new Unreadable(new TinyRun.Greys(false)), "0", "1"))
        .isInstanceOf(IllegalStateException.class)
        .hasMessage("image 7 is damaged");
  }

  @Test
  void aBadStepIsBadForAll() throws IOException {
    Recipe recipe = TinyRun.recipe("run.batch=8", "run.steps=8");
    assertThatThrownBy(() -> run("bad", recipe, new TinyRun.Greys(true), "0", "1"))
        .isInstanceOf(BadStepException.class)
        .hasMessageContaining("not finite");
  }

  @Test
  void gpusThatCannotBeJoinedAreRefused() {
    assertThatThrownBy(() -> Devices.gpus(Precision.FP32, List.of("0", "0")))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("gpus must name each GPU once, got [0, 0]");
    assertThatThrownBy(() -> Devices.gpus(Precision.FP32, List.of("0", "2")))
        .isInstanceOf(CudaException.class)
        .hasMessage("GPU 2 was asked for, this machine has 2, counted from 0");
    System.setProperty("meanflow.cuda.nccl", folder.resolve("none.so").toString());
    assertThatThrownBy(() -> Devices.gpus(Precision.FP32, List.of("0", "1")))
        .isInstanceOf(CudaException.class)
        .hasMessageStartingWith("meanflow.cuda.nccl names no file: ");
  }
}
