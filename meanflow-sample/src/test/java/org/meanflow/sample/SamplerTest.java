package org.meanflow.sample;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.util.ArrayList;
import java.util.List;
import java.util.function.Function;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;

class SamplerTest {
  private final GaussianVelocity field = new GaussianVelocity(0.75, 0.5);
  private final INDArray noise =
      new RandomStream(7, 0, Purpose.SAMPLING).normalArray(DataType.DOUBLE, 4, 1, 3, 3);

  static Stream<TimeGrid> grids() {
    return Stream.of(
        TimeGrid.uniform(1),
        TimeGrid.uniform(2),
        TimeGrid.uniform(7),
        TimeGrid.of(1, 0.9, 0.35, 0.01, 0));
  }

  @ParameterizedTest
  @MethodSource("grids")
  void meanFlowSamplingIsExactOnEveryGrid(TimeGrid grid) {
    MeanFlowSampler sampler = new MeanFlowSampler(grid);
    INDArray untouched = noise.dup();

    INDArray samples = sampler.sample(field, noise, null);

    // A handful of roundings of numbers below 10.
    assertThat(worst(samples, field.data(noise))).isLessThan(1e-14);
    assertThat(noise).isEqualTo(untouched);
    assertThat(sampler.evaluations()).isEqualTo(grid.steps()).isEqualTo(field.labels.size());
  }

  @Test
  void oneStepIsNoiseMinusVelocity() {
    INDArray u = field.u(noise, new double[4], new double[] {1, 1, 1, 1}, null);
    assertThat(worst(MeanFlowSampler.oneStep().sample(field, noise, null), noise.sub(u))).isZero();
  }

  @Test
  void eulerIsOfFirstOrder() {
    assertThat(order(EulerSampler::new)).isCloseTo(1, within(0.05));
  }

  @Test
  void heunIsOfSecondOrder() {
    assertThat(order(HeunSampler::new)).isCloseTo(2, within(0.05));
  }

  @Test
  void heunCorrectsTheLastStep() {
    // One step, by hand: k1 = v(ε, 1), k2 = v(ε − k1, 0).
    double[] one = {1, 1, 1, 1};
    INDArray k1 = field.v(noise, one, null);
    INDArray k2 = field.v(noise.sub(k1), new double[4], null);
    INDArray expected = noise.sub(k1.add(k2).mul(0.5));
    INDArray samples = new HeunSampler(TimeGrid.uniform(1)).sample(field, noise, null);
    assertThat(worst(samples, expected)).isLessThan(1e-15);
  }

  @Test
  void evaluationsAreCounted() {
    TimeGrid grid = TimeGrid.uniform(5);
    for (Sampler sampler :
        List.of(new MeanFlowSampler(grid), new EulerSampler(grid), new HeunSampler(grid))) {
      GaussianVelocity counted = new GaussianVelocity(0, 1);
      sampler.sample(counted, noise, null);
      assertThat(counted.labels).hasSize(sampler.evaluations());
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"FLOAT", "DOUBLE"})
  void labelsAndTypeReachTheFieldAndBack(DataType type) {
    int[] labels = {0, 1, 2, 0};
    INDArray noise = this.noise.castTo(type);
    TimeGrid grid = TimeGrid.uniform(2);
    for (Sampler sampler :
        List.of(new MeanFlowSampler(grid), new EulerSampler(grid), new HeunSampler(grid))) {
      GaussianVelocity conditional = new GaussianVelocity(0, 0.5);
      INDArray samples = sampler.sample(conditional, noise, labels);
      assertThat(conditional.labels).isNotEmpty().allMatch(seen -> seen == labels);
      assertThat(samples.dataType()).isEqualTo(type);
      // Shifting the mean shifts the samples: z enters all samplers linearly, the mean with factor
      // 1.
      INDArray plain = sampler.sample(new GaussianVelocity(0, 0.5), noise, null);
      assertThat(samples.sub(plain).mean(1, 2, 3).toDoubleVector())
          .containsExactly(new double[] {0, 1, 2, 0}, within(1e-6));
    }
    assertThatThrownBy(() -> MeanFlowSampler.oneStep().sample(field, noise, new int[3]))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("labels must be one for each of the 4 samples, got 3");
  }

  @Test
  void trajectoryIsObservedFromNoiseToData() {
    TimeGrid grid = TimeGrid.of(1, 0.5, 0.25, 0);
    List<Integer> steps = new ArrayList<>();
    List<Double> times = new ArrayList<>();
    List<INDArray> points = new ArrayList<>();
    INDArray samples =
        new MeanFlowSampler(grid)
            .sample(
                field,
                noise,
                null,
                (step, t, z) -> {
                  steps.add(step);
                  times.add(t);
                  points.add(z);
                });
    assertThat(steps).containsExactly(0, 1, 2, 3);
    assertThat(times).containsExactly(1.0, 0.5, 0.25, 0.0);
    assertThat(points.getFirst()).isSameAs(noise);
    assertThat(points.getLast()).isSameAs(samples);
    // z_t = mean_t + std_t·ε at t = 0.5: mean 0.375, std √(0.25² + 0.5²).
    INDArray half = noise.mul(Math.hypot(0.25, 0.5)).add(0.375);
    assertThat(worst(points.get(1), half)).isLessThan(1e-14);
  }

  /** The slope of log error against log step size, between 64 and 128 steps. */
  private double order(Function<TimeGrid, Sampler> method) {
    INDArray exact = field.data(noise);
    double coarse = worst(method.apply(TimeGrid.uniform(64)).sample(field, noise, null), exact);
    double fine = worst(method.apply(TimeGrid.uniform(128)).sample(field, noise, null), exact);
    assertThat(fine).isBetween(1e-7, 1e-1);
    return Math.log(coarse / fine) / Math.log(2);
  }

  private static double worst(INDArray actual, INDArray expected) {
    assertThat(actual.shape()).isEqualTo(expected.shape());
    double worst = actual.sub(expected).amaxNumber().doubleValue();
    assertThat(worst).isFinite();
    return worst;
  }
}
