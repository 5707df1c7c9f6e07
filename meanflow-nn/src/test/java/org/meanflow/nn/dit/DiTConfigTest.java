package org.meanflow.nn.dit;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Locale;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.layer.PositionTable;

class DiTConfigTest {

  /**
   * Sizes of the DiT paper (arXiv 2212.09748, table 1) and of the MeanFlow paper (arXiv 2505.13447,
   * table 4), which gives the millions of parameters on 32×32×4 latents of 1000 classes; S/2 by
   * {@link #expectedCount}.
   */
  @ParameterizedTest
  @CsvSource({
    "S/2, 384, 12, 6, 33",
    "B/4, 768, 12, 12, 131",
    "B/2, 768, 12, 12, 131",
    "M/2, 1024, 16, 16, 308",
    "L/2, 1024, 24, 16, 459",
    "XL/2, 1152, 28, 16, 676",
  })
  void presets(String name, int width, int depth, int heads, int millions) {
    DiTConfig config = DiTConfig.preset(name, 4, 32, 1000);
    assertThat(config.width()).isEqualTo(width);
    assertThat(config.depth()).isEqualTo(depth);
    assertThat(config.heads()).isEqualTo(heads);
    assertThat(config.patch()).isEqualTo(name.charAt(name.length() - 1) - '0');
    assertThat(config.grid()).isEqualTo(32 / config.patch());
    long count = new DiT(config).parameters().count();
    assertThat(count).isEqualTo(expectedCount(config));
    assertThat(Math.round(count / 1e6)).isEqualTo(millions);
  }

  /** Weights and biases, layer by layer. */
  private static long expectedCount(DiTConfig config) {
    long d = config.width();
    long pixels = (long) config.patch() * config.patch() * config.channels();
    long times = config.conditioning() == TimeConditioning.H ? 1 : 2;
    long hidden = Math.round(d * config.mlpRatio());
    long gains = config.qkNorm().kind() == Norm.Kind.NONE ? 0 : 2 * d / config.heads();
    long patches = linear(pixels, d);
    long timeEmbedders = times * (linear(config.timeFeatures(), d) + linear(d, d));
    long labels = config.classes() > 0 ? (config.classes() + 1L) * d : 0;
    long positions =
        config.positions() == PositionTable.LEARNED ? (long) config.grid() * config.grid() * d : 0;
    long block =
        linear(d, 3 * d)
            + gains
            + linear(d, d)
            + linear(d, hidden)
            + linear(hidden, d)
            + linear(d, 6 * d);
    long head = linear(d, pixels) + linear(d, 2 * d);
    return patches + timeEmbedders + labels + positions + config.depth() * block + head;
  }

  private static long linear(long in, long out) {
    return in * out + out;
  }

  @ParameterizedTest
  @ValueSource(ints = {0, 10})
  void everyPartIsCounted(int classes) {
    for (TimeConditioning conditioning : TimeConditioning.values()) {
      for (PositionTable positions : PositionTable.values()) {
        for (Norm qkNorm : new Norm[] {Norm.none(), Norm.rms()}) {
          DiTConfig config =
              new DiTConfig(
                  3,
                  8,
                  2,
                  12,
                  2,
                  3,
                  2.5,
                  classes,
                  Norm.rms(),
                  qkNorm,
                  1000,
                  conditioning,
                  positions,
                  16);
          assertThat(new DiT(config).parameters().count()).isEqualTo(expectedCount(config));
        }
      }
    }
  }

  @Test
  void presetNamesAreForgivingAboutCaseOnly() {
    assertThat(DiTConfig.preset("xl/2", 4, 32, 0)).isEqualTo(DiTConfig.preset("XL/2", 4, 32, 0));
    for (String name : new String[] {"B", "B/0", "H/2", "B/2 ", "/2", "B2"}) {
      assertThatThrownBy(() -> DiTConfig.preset(name, 4, 32, 0))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage(
              "model.preset must be like B/4, size one of S, B, M, L, XL, got "
                  + name.toUpperCase(Locale.ROOT));
    }
  }

  private static DiTConfig with(
      int channels,
      int imageSize,
      int patch,
      int width,
      int depth,
      int heads,
      double mlpRatio,
      int classes,
      double timeScale,
      int timeFeatures) {
    return new DiTConfig(
        channels,
        imageSize,
        patch,
        width,
        depth,
        heads,
        mlpRatio,
        classes,
        Norm.layer(),
        Norm.none(),
        timeScale,
        TimeConditioning.T_H,
        PositionTable.FIXED,
        timeFeatures);
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "0 | 8 | 2 | 8 | 1 | 2 | 4 | 0 | 1 | 8 | model.channels must be >= 1, got 0",
        "1 | 9 | 2 | 8 | 1 | 2 | 4 | 0 | 1 | 8 | model.imageSize must be a multiple of patch (2),"
            + " got 9",
        "1 | 0 | 2 | 8 | 1 | 2 | 4 | 0 | 1 | 8 | model.imageSize must be a multiple of patch (2),"
            + " got 0",
        "1 | 8 | 0 | 8 | 1 | 2 | 4 | 0 | 1 | 8 | model.patch must be >= 1, got 0",
        "1 | 8 | 2 | 6 | 1 | 2 | 4 | 0 | 1 | 8 | model.width must be a multiple of heads (2) and of"
            + " 4, got 6",
        "1 | 8 | 2 | 8 | 1 | 3 | 4 | 0 | 1 | 8 | model.width must be a multiple of heads (3) and of"
            + " 4, got 8",
        "1 | 8 | 2 | 8 | 0 | 2 | 4 | 0 | 1 | 8 | model.depth must be >= 1, got 0",
        "1 | 8 | 2 | 8 | 1 | 0 | 4 | 0 | 1 | 8 | model.heads must be >= 1, got 0",
        "1 | 8 | 2 | 8 | 1 | 2 | NaN | 0 | 1 | 8 | model.mlpRatio must be in (0, 64], got NaN",
        "1 | 8 | 2 | 8 | 1 | 2 | 0 | 0 | 1 | 8 | model.mlpRatio must be in (0, 64], got 0.0",
        "1 | 8 | 2 | 8 | 1 | 2 | 4 | -1 | 1 | 8 | model.classes must be >= 0, got -1",
        "1 | 8 | 2 | 8 | 1 | 2 | 4 | 0 | NaN | 8 | model.timeScale must be finite and > 0, got NaN",
        "1 | 8 | 2 | 8 | 1 | 2 | 4 | 0 | 0 | 8 | model.timeScale must be finite and > 0, got 0.0",
        "1 | 8 | 2 | 8 | 1 | 2 | 4 | 0 | 1 | 7 | model.timeFeatures must be even and >= 2, got 7",
      })
  void refusesWhatDoesNotFit(
      int channels,
      int imageSize,
      int patch,
      int width,
      int depth,
      int heads,
      double mlpRatio,
      int classes,
      double timeScale,
      int timeFeatures,
      String message) {
    assertThatThrownBy(
            () ->
                with(
                    channels,
                    imageSize,
                    patch,
                    width,
                    depth,
                    heads,
                    mlpRatio,
                    classes,
                    timeScale,
                    timeFeatures))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage(message);
  }
}
