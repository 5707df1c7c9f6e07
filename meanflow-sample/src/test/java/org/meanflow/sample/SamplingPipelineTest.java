package org.meanflow.sample;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.meanflow.core.field.AverageVelocity;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;

class SamplingPipelineTest {
  private static final long[] SHAPE = {3, 4, 2};
  private final GaussianVelocity field = new GaussianVelocity(0, 0.5);

  @ParameterizedTest
  @ValueSource(ints = {1, 3, 7, 10, Integer.MAX_VALUE})
  void batchSizeChangesNothing(int batchSize) throws InterruptedException {
    INDArray samples = pipeline(batchSize).generate(10, new int[] {0, 5}, 3, ProgressListener.NONE);
    INDArray atOnce = pipeline(100).generate(10, new int[] {0, 5}, 3, ProgressListener.NONE);
    assertThat(samples.shape()).containsExactly(10, 3, 4, 2);
    assertThat(samples.dataType()).isEqualTo(DataType.FLOAT);
    assertThat(samples).isEqualTo(atOnce);
  }

  @Test
  void noiseOfASampleIsItsOwnStream() throws InterruptedException {
    AverageVelocity zero = (z, r, t, labels) -> z.mul(0);
    INDArray samples =
        new SamplingPipeline(zero, SHAPE, MeanFlowSampler.oneStep(), 2, DataType.DOUBLE)
            .generate(5, null, 11, ProgressListener.NONE);
    for (int i = 0; i < 5; i++) {
      double[] noise = new RandomStream(11, i, Purpose.SAMPLING).normals(24);
      assertThat(samples.slice(i).dup('c').data().asDouble()).containsExactly(noise);
    }
  }

  @Test
  void labelsAreCycledAcrossBatches() throws InterruptedException {
    pipeline(2).generate(5, new int[] {0, 3, 7}, 1, ProgressListener.NONE);
    assertThat(field.labels).containsExactly(new int[] {0, 3}, new int[] {7, 0}, new int[] {3});
    assertThat(SamplingPipeline.cycle(new int[] {4, 5}, 5)).containsExactly(4, 5, 4, 5, 4);
    assertThatThrownBy(() -> SamplingPipeline.cycle(new int[0], 5))
        .hasMessage("labels must not be empty, got []");
  }

  @Test
  void noLabelsStayNone() throws InterruptedException {
    pipeline(2).generate(3, null, 1, ProgressListener.NONE);
    assertThat(field.labels).containsExactly(null, null);
  }

  @Test
  void progressEndsAtTheTotal() throws InterruptedException {
    List<String> reports = new ArrayList<>();
    pipeline(4).generate(10, null, 1, (done, total) -> reports.add(done + "/" + total));
    assertThat(reports).containsExactly("4/10", "8/10", "10/10");
  }

  @Test
  void interruptionStopsBeforeTheNextBatch() {
    assertThatThrownBy(
            () ->
                pipeline(2)
                    .generate(10, null, 1, (done, total) -> Thread.currentThread().interrupt()))
        .isInstanceOf(InterruptedException.class)
        .hasMessageContaining("2 of 10");
    assertThat(field.labels).hasSize(1);
    assertThat(Thread.interrupted()).isFalse();
  }

  @Test
  void badSettingsAreRefused() {
    assertThatThrownBy(() -> pipeline(0)).hasMessage("batchSize must be >= 1, got 0");
    assertThatThrownBy(() -> pipeline(1).generate(0, null, 1, ProgressListener.NONE))
        .hasMessage("count must be >= 1, got 0");
    assertThatThrownBy(() -> pipeline(1).generate(1, new int[0], 1, ProgressListener.NONE))
        .hasMessage("labels must not be empty, got []");
    for (long[] shape : new long[][] {{3, 4}, {3, 0, 2}, {}}) {
      assertThatThrownBy(
              () ->
                  new SamplingPipeline(field, shape, MeanFlowSampler.oneStep(), 1, DataType.FLOAT))
          .hasMessageStartingWith("sampleShape must be [channels, height, width], each >= 1, got");
    }
    assertThatThrownBy(
            () -> new SamplingPipeline(field, SHAPE, MeanFlowSampler.oneStep(), 1, DataType.INT))
        .hasMessage("type must be FLOAT or DOUBLE, got INT");
  }

  private SamplingPipeline pipeline(int batchSize) {
    return new SamplingPipeline(field, SHAPE, MeanFlowSampler.oneStep(), batchSize, DataType.FLOAT);
  }
}
