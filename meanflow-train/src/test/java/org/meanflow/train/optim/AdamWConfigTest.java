package org.meanflow.train.optim;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;
import org.meanflow.nn.engine.OptimizerKernels.AdamWUpdate;

class AdamWConfigTest {
  private static final double NAN = Double.NaN;
  private static final double INFINITY = Double.POSITIVE_INFINITY;

  @Test
  void clippingIsThatOfPyTorch() {
    AdamWConfig config = new AdamWConfig(0.9, 0.95, 1e-8, 0.01, 0.5);
    assertThat(config.gradientScale(2)).isEqualTo(0.5 / (2 + 1e-6));
    assertThat(config.gradientScale(0.4)).isEqualTo(1);
    assertThat(config.gradientScale(0)).isEqualTo(1);
    assertThat(config.gradientScale(NAN)).isNaN();
    AdamWConfig unclipped = new AdamWConfig(0.9, 0.95, 1e-8, 0.01, INFINITY);
    assertThat(unclipped.gradientScale(1e30)).isEqualTo(1);
  }

  @Test
  void theKernelCountsStepsFromOne() {
    AdamWConfig config = new AdamWConfig(0.9, 0.95, 1e-8, 0.01, INFINITY);
    assertThat(config.update(0, 1e-3, 7))
        .isEqualTo(new AdamWUpdate(1e-3, 0.9, 0.95, 1e-8, 0.01, 1, 1));
  }

  @Test
  void refusesValuesOutOfRange() {
    refused(1, 0.9, 1e-8, 0, 1, "beta1 must be in [0, 1), got 1.0");
    refused(NAN, 0.9, 1e-8, 0, 1, "beta1 must be in [0, 1), got NaN");
    refused(0.9, -0.1, 1e-8, 0, 1, "beta2 must be in [0, 1), got -0.1");
    refused(0.9, NAN, 1e-8, 0, 1, "beta2 must be in [0, 1), got NaN");
    refused(0.9, 0.9, 0, 0, 1, "epsilon must be finite and > 0, got 0.0");
    refused(0.9, 0.9, NAN, 0, 1, "epsilon must be finite and > 0, got NaN");
    refused(0.9, 0.9, 1e-8, -1, 1, "weightDecay must be finite and >= 0, got -1.0");
    refused(0.9, 0.9, 1e-8, NAN, 1, "weightDecay must be finite and >= 0, got NaN");
    refused(0.9, 0.9, 1e-8, 0, 0, "clipNorm must be > 0, got 0.0");
    refused(0.9, 0.9, 1e-8, 0, NAN, "clipNorm must be > 0, got NaN");
  }

  private static void refused(
      double beta1, double beta2, double epsilon, double decay, double clip, String message) {
    assertThatThrownBy(() -> new AdamWConfig(beta1, beta2, epsilon, decay, clip))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage(message);
  }
}
