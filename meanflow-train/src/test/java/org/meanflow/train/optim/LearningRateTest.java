package org.meanflow.train.optim;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.meanflow.train.optim.LearningRate.Kind;

class LearningRateTest {

  /** The rates of the recorded AdamW runs: lr_k = base·min(1, (k + 1)/3). */
  @Test
  void warmUpThenConstant() {
    LearningRate rate = new LearningRate(1e-3, 3, Kind.CONSTANT, 5, 0);
    for (int k = 0; k < 5; k++) {
      assertThat(rate.at(k)).isEqualTo(1e-3 * Math.min(1, (k + 1) / 3.0));
    }
    assertThat(rate.at(1L << 40)).isEqualTo(1e-3);
  }

  @Test
  void cosineFallsFromTheRateToItsFraction() {
    LearningRate rate = new LearningRate(2, 10, Kind.COSINE, 110, 0.1);
    double ulps = 1e-15; // cos and three operations on numbers up to 2
    assertThat(rate.at(0)).isCloseTo(0.2, within(ulps));
    assertThat(rate.at(9)).isEqualTo(2);
    assertThat(rate.at(10)).isEqualTo(2);
    assertThat(rate.at(60)).isCloseTo(2 * (0.1 + 0.9 / 2), within(ulps));
    assertThat(rate.at(110)).isCloseTo(0.2, within(ulps));
    assertThat(rate.at(1_000_000)).isCloseTo(0.2, within(ulps));
    for (int step = 10; step < 110; step++) {
      assertThat(rate.at(step + 1)).isLessThan(rate.at(step));
    }
  }

  /** η(t) = rate/√max(1, t/t_ref), times the warm-up. */
  @Test
  void inverseRootHalvesWhenStepsQuadruple() {
    LearningRate rate = new LearningRate(2, 10, Kind.INVERSE_ROOT, 50, 0, 100);
    double ulps = 1e-15; // a root and three operations on numbers up to 2
    assertThat(rate.at(0)).isCloseTo(0.2, within(ulps));
    assertThat(rate.at(9)).isEqualTo(2);
    assertThat(rate.at(100)).isEqualTo(2);
    assertThat(rate.at(400)).isCloseTo(1, within(ulps));
    assertThat(rate.at(1600)).isCloseTo(0.5, within(ulps));
    LearningRate longWarmup = new LearningRate(2, 1000, Kind.INVERSE_ROOT, 50, 0, 100);
    assertThat(longWarmup.at(399)).isCloseTo(0.8 / Math.sqrt(3.99), within(ulps));
    assertThatThrownBy(() -> new LearningRate(1, 0, Kind.INVERSE_ROOT, 1, 0))
        .hasMessage("referenceSteps must be >= 1, got 0");
  }

  @Test
  void aRunMayEndInItsWarmUp() {
    LearningRate rate = new LearningRate(1, 100, Kind.COSINE, 20, 0);
    assertThat(rate.at(19)).isEqualTo(0.2);
    assertThat(rate.at(100)).isZero();
  }

  @Test
  void noWarmUp() {
    assertThat(new LearningRate(1, 0, Kind.CONSTANT, 5, 0).at(0)).isEqualTo(1);
    assertThat(new LearningRate(1, 0, Kind.COSINE, 5, 0).at(0)).isEqualTo(1);
  }

  @ParameterizedTest
  @ValueSource(doubles = {0, -1, Double.NaN, Double.POSITIVE_INFINITY})
  void refusesARateThatIsNone(double rate) {
    assertThatThrownBy(() -> new LearningRate(rate, 0, Kind.CONSTANT, 1, 0))
        .hasMessage("rate must be finite and > 0, got " + rate);
  }

  @ParameterizedTest
  @ValueSource(doubles = {-0.1, 1.1, Double.NaN})
  void refusesAFractionThatIsNone(double fraction) {
    assertThatThrownBy(() -> new LearningRate(1, 0, Kind.COSINE, 1, fraction))
        .hasMessage("finalFraction must be in [0, 1], got " + fraction);
  }

  @Test
  void refusesStepsBelowTheirRange() {
    assertThatThrownBy(() -> new LearningRate(1, -1, Kind.CONSTANT, 1, 0))
        .hasMessage("warmupSteps must be >= 0, got -1");
    assertThatThrownBy(() -> new LearningRate(1, 0, Kind.CONSTANT, 0, 0))
        .hasMessage("totalSteps must be >= 1, got 0");
    assertThatThrownBy(() -> new LearningRate(1, 0, Kind.CONSTANT, 1, 0).at(-1))
        .hasMessage("step must be >= 0, got -1");
  }
}
