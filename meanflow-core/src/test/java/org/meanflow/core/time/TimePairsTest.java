package org.meanflow.core.time;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;

class TimePairsTest {

  @Test
  void acceptsOrderedPairsWithTheDistinctOnesFirst() {
    TimePairs pairs = new TimePairs(new double[] {0, 0.5, 1}, new double[] {1, 0.5, 1}, 1);
    assertThat(pairs.batch()).isEqualTo(3);
    assertThat(new TimePairs(new double[] {0.5}, new double[] {0.5}, 1).distinct()).isEqualTo(1);
  }

  @Test
  void refusesWhatIsNotAPartitionedBatchOfPairs() {
    assertThatThrownBy(() -> new TimePairs(new double[1], new double[2], 0))
        .hasMessage("r must have as many times as t, 2, got 1");
    assertThatThrownBy(() -> new TimePairs(new double[2], new double[2], 3))
        .hasMessage("distinct must be in [0, 2], got 3");
    assertThatThrownBy(() -> new TimePairs(new double[] {0.6}, new double[] {0.5}, 1))
        .hasMessage("r[0], t[0] must satisfy 0 <= r <= t <= 1, got 0.6, 0.5");
    assertThatThrownBy(() -> new TimePairs(new double[] {Double.NaN}, new double[] {0.5}, 1))
        .hasMessageContaining("0 <= r <= t <= 1");
    assertThatThrownBy(() -> new TimePairs(new double[] {0}, new double[] {Double.NaN}, 1))
        .hasMessageContaining("0 <= r <= t <= 1");
    assertThatThrownBy(() -> new TimePairs(new double[] {0, 0.4}, new double[] {1, 0.5}, 1))
        .hasMessage("r[1] must equal t[1] because distinct is 1, got 0.4, 0.5");
  }
}
