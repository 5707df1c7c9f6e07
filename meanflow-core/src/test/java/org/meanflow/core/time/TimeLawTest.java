package org.meanflow.core.time;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.meanflow.core.Closeness.assertClose;

import java.util.Arrays;
import java.util.stream.DoubleStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;

class TimeLawTest {
  private static final int DRAWS = 200_000;

  /** The quantile of sigmoid(mean + std·n) is sigmoid(mean + std·Φ⁻¹(q)). */
  @ParameterizedTest
  @CsvSource({
    "-0.4, 1, 0.01, -2.3263478740408408",
    "-0.4, 1, 0.25, -0.6744897501960817",
    "-0.4, 1, 0.5, 0",
    "-0.4, 1, 0.95, 1.6448536269514722",
    "-2, 2, 0.05, -1.6448536269514722",
    "-2, 2, 0.75, 0.6744897501960817"
  })
  void logitNormalHasItsQuantiles(double mean, double std, double q, double normalQuantile) {
    LogitNormal law = new LogitNormal(mean, std);
    double quantile = law.fromNormal(normalQuantile);
    double share = (double) draws(law).filter(t -> t <= quantile).count() / DRAWS;
    assertClose(share, q, 5 * Math.sqrt(q * (1 - q) / DRAWS));
  }

  /** Mean and variance by quadrature, from the reference fixtures samplers/distributions.json. */
  @Test
  void logitNormalHasItsMoments() {
    double[] t = draws(new LogitNormal(-0.4, 1)).toArray();
    double mean = Arrays.stream(t).average().orElse(Double.NaN);
    double variance =
        Arrays.stream(t).map(x -> (x - mean) * (x - mean)).average().orElse(Double.NaN);
    assertClose(mean, 0.4180117226752205, 5 * Math.sqrt(0.04158069661617353 / DRAWS));
    assertClose(variance / 0.04158069661617353, 1, 5 * Math.sqrt(3.0 / DRAWS));
  }

  @Test
  void logitNormalIsASigmoidAndStaysInRange() {
    LogitNormal law = new LogitNormal(-0.4, 1);
    assertClose(law.fromNormal(0.4), 0.5, 0);
    assertClose(law.fromNormal(0.4 + Math.log(3)), 0.75, 1e-15);
    assertThat(law.fromNormal(-1e6)).isZero();
    assertThat(law.fromNormal(1e6)).isEqualTo(1);
  }

  @ParameterizedTest
  @CsvSource({"0.01", "0.25", "0.5", "0.99"})
  void uniformHasItsQuantiles(double q) {
    double share = (double) draws(new Uniform()).filter(t -> t <= q).count() / DRAWS;
    assertClose(share, q, 5 * Math.sqrt(q * (1 - q) / DRAWS));
  }

  @Test
  void refusesWhatIsOutOfRange() {
    assertThatThrownBy(() -> new LogitNormal(Double.NaN, 1))
        .hasMessage("mean must be finite, got NaN");
    for (double bad : new double[] {0, -1, Double.NaN, Double.POSITIVE_INFINITY}) {
      assertThatThrownBy(() -> new LogitNormal(0, bad))
          .hasMessage("std must be finite and > 0, got " + bad);
    }
  }

  private static DoubleStream draws(TimeLaw law) {
    RandomStream random = new RandomStream(7, 0, Purpose.TIME);
    return DoubleStream.generate(() -> law.draw(random)).limit(DRAWS);
  }
}
