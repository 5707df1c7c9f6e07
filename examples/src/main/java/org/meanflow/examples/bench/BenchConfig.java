package org.meanflow.examples.bench;

import java.util.List;
import org.meanflow.nn.dit.DiTConfig;
import org.meanflow.nn.dit.TimeConditioning;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.layer.PositionTable;

/**
 * A network and a batch size under the name by which they are measured.
 *
 * @param name the name, as in {@code --config digits}
 * @param batch samples in a step or in a call of the sampler
 * @param model the network
 */
record BenchConfig(String name, int batch, DiTConfig model) {

  /** All of them; {@code dit-…} are networks of the paper on ImageNet latents. */
  static final List<BenchConfig> ALL =
      List.of(
          small("digits", 64, 1, 28, 4, 128, 4, 4, 10),
          small("mnist-s2", 16, 1, 32, 2, 384, 12, 6, 10),
          small("latent-b4", 16, 4, 32, 4, 768, 12, 12, 1000),
          latent("dit-b4-256", 256, "B/4"),
          latent("dit-b2-64", 64, "B/2"),
          latent("dit-xl2-32", 32, "XL/2"));

  static List<String> names() {
    return ALL.stream().map(BenchConfig::name).toList();
  }

  static BenchConfig named(String name) {
    return ALL.stream()
        .filter(config -> config.name.equals(name))
        .findFirst()
        .orElseThrow(
            () ->
                new IllegalArgumentException(
                    "--config must be one of %s, got '%s'".formatted(names(), name)));
  }

  /** The shape of a sample. */
  long[] imageShape() {
    return new long[] {model.channels(), model.imageSize(), model.imageSize()};
  }

  private static BenchConfig small(
      String name,
      int batch,
      int channels,
      int size,
      int patch,
      int width,
      int depth,
      int heads,
      int classes) {
    return new BenchConfig(
        name,
        batch,
        new DiTConfig(
            channels,
            size,
            patch,
            width,
            depth,
            heads,
            4,
            classes,
            Norm.rms(),
            Norm.rms(),
            1000,
            TimeConditioning.T_R,
            PositionTable.FIXED,
            256));
  }

  private static BenchConfig latent(String name, int batch, String preset) {
    return new BenchConfig(name, batch, DiTConfig.preset(preset, 4, 32, 1000));
  }
}
