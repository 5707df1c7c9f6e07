package org.meanflow.train.data;

import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * What the files of a {@link LatentDataset} hold and how it becomes what is trained on: x = scale ·
 * (z − mean) / std, per channel.
 *
 * @param content what is stored of each image
 * @param scale factor, finite and &gt; 0, such as 0.18215 for Stable Diffusion's autoencoder;
 *     {@code null} for 1
 * @param mean mean of z for each channel, or one for all; {@code null} for 0
 * @param std standard deviation of z for each channel, or one for all, &gt; 0; {@code null} for 1
 */
public record LatentForm(
    Content content,
    @Nullable Double scale,
    @Nullable List<Double> mean,
    @Nullable List<Double> std) {

  /** What is stored of each image. */
  public enum Content {
    /** The latent z itself: array {@code latents}, {@code [n, channels, height, width]}. */
    LATENTS,
    /**
     * The posterior of z as mean and log variance: array {@code moments}, {@code [n, 2 · channels,
     * height, width]}. The log variance is clamped to [−30, 20], as diffusers does.
     */
    MEAN_LOGVAR,
    /** The posterior of z as mean and standard deviation: array {@code moments}, same shape. */
    MEAN_STD;

    /** The name of the array in a file. */
    String array() {
      return this == LATENTS ? "latents" : "moments";
    }

    /** How many values are stored for one of z. */
    int parts() {
      return this == LATENTS ? 1 : 2;
    }
  }

  /** Refuses values outside the ranges of the parameters. */
  public LatentForm {
    if (scale != null && !(scale > 0 && Double.isFinite(scale))) {
      throw new IllegalArgumentException("scale must be finite and > 0, got " + scale);
    }
    if (mean != null) {
      mean = List.copyOf(mean);
      if (!mean.stream().allMatch(Double::isFinite)) {
        throw new IllegalArgumentException("mean must be finite, got " + mean);
      }
    }
    if (std != null) {
      std = List.copyOf(std);
      if (!std.stream().allMatch(each -> each > 0 && Double.isFinite(each))) {
        throw new IllegalArgumentException("std must be finite and > 0, got " + std);
      }
    }
  }
}
