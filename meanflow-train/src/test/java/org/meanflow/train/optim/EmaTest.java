package org.meanflow.train.optim;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class EmaTest {

  @Test
  void theDecayStays() {
    Ema ema = new Ema(0.99, false);
    assertThat(ema.decayAt(0)).isEqualTo(0.99);
    assertThat(ema.decayAt(1_000_000)).isEqualTo(0.99);
  }

  @Test
  void theDecayRisesInTheWarmUp() {
    Ema ema = new Ema(0.99, true);
    assertThat(ema.decayAt(0)).isEqualTo(0.1);
    assertThat(ema.decayAt(8)).isEqualTo(0.5);
    assertThat(ema.decayAt(889)).isLessThan(0.99); // 890/899
    assertThat(ema.decayAt(891)).isEqualTo(0.99); // 892/901 > 0.99
  }

  @ParameterizedTest
  @ValueSource(doubles = {-0.1, 1, Double.NaN})
  void refusesADecayOutOfRange(double decay) {
    assertThatThrownBy(() -> new Ema(decay, false))
        .hasMessage("decay must be in [0, 1), got " + decay);
  }

  @Test
  void refusesANegativeStep() {
    assertThatThrownBy(() -> new Ema(0.9, true).decayAt(-1))
        .hasMessage("step must be >= 0, got -1");
  }
}
