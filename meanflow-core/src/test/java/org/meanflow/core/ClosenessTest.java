package org.meanflow.core;

import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.meanflow.core.Closeness.assertClose;

import org.junit.jupiter.api.Test;

class ClosenessTest {

  @Test
  void failsOnNaNAndInfinity() {
    assertClose(1, 1, 0);
    assertThatThrownBy(() -> assertClose(Double.NaN, Double.NaN, 1))
        .isInstanceOf(AssertionError.class);
    assertThatThrownBy(() -> assertClose(1, Double.NaN, 1)).isInstanceOf(AssertionError.class);
    assertThatThrownBy(() -> assertClose(Double.POSITIVE_INFINITY, 1, 1))
        .isInstanceOf(AssertionError.class);
    assertThatThrownBy(() -> assertClose(1.2, 1, 0.1)).isInstanceOf(AssertionError.class);
  }
}
