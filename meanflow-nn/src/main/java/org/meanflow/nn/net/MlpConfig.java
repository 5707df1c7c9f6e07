package org.meanflow.nn.net;

/**
 * The architecture of an {@link MlpNetwork}.
 *
 * @param dimensions coordinates of a point, ≥ 1
 * @param width width of the hidden layers, ≥ 1
 * @param depth number of hidden layers, ≥ 1
 * @param classes number of classes; 0 for a network without labels
 * @param timeScale factor on the times before their sinusoids, finite and &gt; 0. Much above π, two
 *     times share a phase; du/dt grows with it.
 * @param timeFeatures number of sinusoidal features of a time, even and ≥ 2
 */
public record MlpConfig(
    int dimensions, int width, int depth, int classes, double timeScale, int timeFeatures) {

  /** Checks the ranges. */
  public MlpConfig {
    requireAtLeast("dimensions", 1, dimensions);
    requireAtLeast("width", 1, width);
    requireAtLeast("depth", 1, depth);
    requireAtLeast("classes", 0, classes);
    if (!(timeScale > 0 && Double.isFinite(timeScale))) {
      throw new IllegalArgumentException(
          "model.timeScale must be finite and > 0, got " + timeScale);
    }
    if (timeFeatures < 2 || timeFeatures % 2 != 0) {
      throw new IllegalArgumentException(
          "model.timeFeatures must be even and >= 2, got " + timeFeatures);
    }
  }

  private static void requireAtLeast(String field, int least, int value) {
    if (value < least) {
      throw new IllegalArgumentException(
          "model.%s must be >= %d, got %d".formatted(field, least, value));
    }
  }
}
