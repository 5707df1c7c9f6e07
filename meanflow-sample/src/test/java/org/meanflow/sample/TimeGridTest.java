package org.meanflow.sample;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

class TimeGridTest {

  @Test
  void uniformGridsCountDownFromOneToZero() {
    assertThat(TimeGrid.uniform(4).times()).containsExactly(1, 0.75, 0.5, 0.25, 0);
    assertThat(TimeGrid.uniform(1)).isEqualTo(TimeGrid.of(1, 0));
    assertThat(TimeGrid.uniform(1000).steps()).isEqualTo(1000);
    assertThatThrownBy(() -> TimeGrid.uniform(0)).hasMessage("steps must be >= 1, got 0");
  }

  @Test
  void timesCannotBeChangedFromOutside() {
    double[] times = {1, 0.5, 0};
    TimeGrid grid = new TimeGrid(times);
    times[1] = 7;
    grid.times()[1] = 8;
    assertThat(grid.at(1)).isEqualTo(0.5);
  }

  static Stream<double[]> badTimes() {
    return Stream.of(
        new double[0],
        new double[] {1},
        new double[] {1, 0.5},
        new double[] {0.5, 0},
        new double[] {0, 1},
        new double[] {1, 0.5, 0.5, 0},
        new double[] {1, Double.NaN, 0},
        new double[] {Double.NaN, 0},
        new double[] {1, Double.NaN});
  }

  @ParameterizedTest
  @MethodSource("badTimes")
  void otherTimesAreRefused(double[] times) {
    assertThatThrownBy(() -> TimeGrid.of(times))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageStartingWith("times must decrease strictly from 1 to 0, got [");
  }
}
