package org.meanflow.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.meanflow.train.Guard.Policy;
import org.meanflow.train.Guard.Verdict;

class GuardTest {

  private static Guard guard(Policy policy, int limit, double threshold) {
    return new Guard(new Guard.Config(policy, limit, 0.5, threshold, 8));
  }

  private static Verdict judge(Guard guard, double error) {
    return guard.judge(1, error, 1, guard.zScore(error));
  }

  @ParameterizedTest
  @CsvSource({"NaN, 1, 1", "Infinity, 1, 1", "1, NaN, 1", "1, 1, NaN", "1, 1, Infinity"})
  void whatIsNotFiniteIsNeverApplied(double loss, double error, double norm) {
    double infinity = Double.POSITIVE_INFINITY;
    Guard stop = guard(Policy.STOP, 5, infinity);
    assertThat(stop.judge(loss, error, norm, 0)).isEqualTo(Verdict.STOP);
    assertThat(stop.judge(1, 1, 1, 0)).isEqualTo(Verdict.APPLY);

    Guard skip = guard(Policy.SKIP, 2, infinity);
    assertThat(skip.judge(loss, error, norm, 0)).isEqualTo(Verdict.SKIP);
    assertThat(skip.judge(loss, error, norm, 0)).isEqualTo(Verdict.SKIP);
    assertThat(skip.judge(loss, error, norm, 0)).isEqualTo(Verdict.STOP);
    assertThat(skip.skipped()).isEqualTo(2);
    assertThat(skip.rateFactor()).isEqualTo(1);

    Guard rollback = guard(Policy.ROLLBACK, 2, infinity);
    assertThat(rollback.judge(loss, error, norm, 0)).isEqualTo(Verdict.ROLLBACK);
    assertThat(rollback.judge(loss, error, norm, 0)).isEqualTo(Verdict.ROLLBACK);
    assertThat(rollback.judge(loss, error, norm, 0)).isEqualTo(Verdict.STOP);
    assertThat(rollback.skipped()).isZero();
    assertThat(rollback.rateFactor()).isEqualTo(0.25);
  }

  /** Errors eᵏ, k = −4…3: the median is −½, the distances from it ½, ½, 1½, 1½, …: MAD 2. */
  @Test
  void theScoreIsThatOfTheLogarithmAgainstMedianAndMad() {
    Guard guard = guard(Policy.SKIP, 9, 10);
    for (int k : new int[] {3, -4, 0, -1, 2, 1, -3, -2}) {
      assertThat(guard.zScore(1e30)).isZero(); // the window is not full yet
      assertThat(judge(guard, Math.exp(k))).isEqualTo(Verdict.APPLY);
    }
    double deviation = 1.4826022 * 2; // 1/Φ⁻¹(3/4) to 8 digits
    double rounding = 1e-6;
    assertThat(guard.zScore(1)).isCloseTo(0.5 / deviation, within(rounding));
    assertThat(guard.zScore(Math.exp(30))).isCloseTo(30.5 / deviation, within(rounding));
    assertThat(guard.zScore(Math.exp(-30))).isNegative();
    assertThat(judge(guard, Math.exp(30))).isEqualTo(Verdict.SKIP); // z = 10.3
    assertThat(judge(guard, Math.exp(29))).isEqualTo(Verdict.APPLY); // z = 9.9
  }

  @Test
  void oneSpikeDoesNotHideTheNext() {
    Guard guard = guard(Policy.SKIP, 9, 10);
    for (int i = 0; i < 8; i++) {
      judge(guard, 1 + 0.1 * i);
    }
    assertThat(judge(guard, 1e6)).isEqualTo(Verdict.SKIP);
    assertThat(judge(guard, 1e6)).isEqualTo(Verdict.SKIP);
    assertThat(judge(guard, 1.3)).isEqualTo(Verdict.APPLY);
  }

  @Test
  void errorsThatAreAllTheSameOrZeroMakeNoSpikeOfASmallChange() {
    Guard same = guard(Policy.SKIP, 9, 10);
    Guard zero = guard(Policy.SKIP, 9, 10);
    for (int i = 0; i < 8; i++) {
      judge(same, 1);
      judge(zero, 0);
    }
    assertThat(judge(same, 1.05)).isEqualTo(Verdict.APPLY); // ln 1.05 / 0.01 = 4.9
    assertThat(judge(same, 1.2)).isEqualTo(Verdict.SKIP); // ln 1.2 / 0.01 = 18
    assertThat(judge(zero, 0)).isEqualTo(Verdict.APPLY);
    assertThat(zero.state().recent()).allMatch(Double::isFinite); // JSON has no infinity
  }

  @Test
  void aRestoredGuardDecidesTheSame() {
    Guard guard = guard(Policy.SKIP, 2, 10);
    for (int i = 0; i < 8; i++) {
      judge(guard, 1 + 0.1 * i);
    }
    judge(guard, 1e6);
    Guard restored = guard(Policy.SKIP, 2, 10);
    restored.restore(guard.state());
    assertThat(restored.state()).isEqualTo(guard.state());
    assertThat(judge(restored, 1e6)).isEqualTo(Verdict.SKIP);
    assertThat(judge(restored, 1e6)).isEqualTo(Verdict.STOP);
    Guard narrower = new Guard(new Guard.Config(Policy.SKIP, 2, 0.5, 10, 8));
    narrower.restore(guard.state());
    assertThat(narrower.state().recent()).hasSize(8);
  }
}
