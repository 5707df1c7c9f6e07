package org.meanflow.train.recipe;

import org.jspecify.annotations.Nullable;
import org.meanflow.nn.dit.DiTConfig;
import org.meanflow.nn.dit.TimeConditioning;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.layer.PositionTable;

/**
 * The section {@code model}: a {@link DiTConfig} in keys and values. In YAML, {@code {preset: B/4,
 * channels, imageSize, classes}} stands for the {@linkplain DiTConfig#preset preset}'s values.
 *
 * @param channels channels of an image
 * @param imageSize height and width of an image
 * @param patch side of a patch
 * @param width channels of a token
 * @param depth number of blocks
 * @param heads attention heads
 * @param mlpRatio hidden width of the MLP as a multiple of {@code width}
 * @param classes number of classes; 0 for a network without labels
 * @param norm normalisation in blocks and head
 * @param normEpsilon ε of the normalisation, in [0, 1); {@code null} for the default of its kind
 * @param qkNorm whether queries and keys are normalised, in the same way
 * @param timeScale factor on the times before their sinusoids
 * @param conditioning which times the network is told
 * @param positions positional embedding
 * @param timeFeatures number of sinusoidal features of a time
 */
public record ModelSection(
    int channels,
    int imageSize,
    int patch,
    int width,
    int depth,
    int heads,
    double mlpRatio,
    int classes,
    NormKind norm,
    @Nullable Double normEpsilon,
    boolean qkNorm,
    double timeScale,
    TimeConditioning conditioning,
    PositionTable positions,
    int timeFeatures) {

  /** The kinds of normalisation that a network can have. */
  public enum NormKind {
    /** {@link Norm#rms()}. */
    RMS,
    /** {@link Norm#layer()}. */
    LAYER
  }

  /** What {@code {preset: …}} stands for. */
  record Preset(String preset, int channels, int imageSize, int classes) {

    /** Refuses an unknown preset. */
    Preset {
      DiTConfig.preset(preset, channels, imageSize, classes);
    }

    ModelSection model() {
      DiTConfig dit = DiTConfig.preset(preset, channels, imageSize, classes);
      return new ModelSection(
          channels,
          imageSize,
          dit.patch(),
          dit.width(),
          dit.depth(),
          dit.heads(),
          dit.mlpRatio(),
          classes,
          NormKind.valueOf(dit.norm().kind().name()),
          dit.norm().epsilon(),
          dit.qkNorm().kind() != Norm.Kind.NONE,
          dit.timeScale(),
          dit.conditioning(),
          dit.positions(),
          dit.timeFeatures());
    }
  }

  /** Refuses an ε outside its range; the rest is checked by {@link #dit}. */
  public ModelSection {
    if (normEpsilon != null && !(normEpsilon >= 0 && normEpsilon < 1)) {
      throw new IllegalArgumentException("normEpsilon must be in [0, 1), got " + normEpsilon);
    }
  }

  /**
   * The architecture.
   *
   * @return the values as the network wants them
   * @throws IllegalArgumentException if {@link DiTConfig} refuses them
   */
  public DiTConfig dit() {
    Norm kind =
        switch (norm) {
          case RMS -> Norm.rms();
          case LAYER -> Norm.layer();
        };
    Norm normalisation = normEpsilon == null ? kind : new Norm(kind.kind(), normEpsilon);
    return new DiTConfig(
        channels,
        imageSize,
        patch,
        width,
        depth,
        heads,
        mlpRatio,
        classes,
        normalisation,
        qkNorm ? normalisation : Norm.none(),
        timeScale,
        conditioning,
        positions,
        timeFeatures);
  }
}
