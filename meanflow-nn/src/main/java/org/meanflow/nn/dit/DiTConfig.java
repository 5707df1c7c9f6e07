package org.meanflow.nn.dit;

import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.layer.PositionTable;

/**
 * The architecture of a {@link DiT}. Every difference between the public MeanFlow repositories is a
 * field here.
 *
 * @param channels channels of an image, ≥ 1
 * @param imageSize height and width of an image, pixels (or latent pixels); a multiple of {@code
 *     patch}
 * @param patch side of a patch, pixels
 * @param width channels of a token; a multiple of {@code heads} and of 4
 * @param depth number of blocks, ≥ 1
 * @param heads attention heads, ≥ 1
 * @param mlpRatio hidden width of the MLP as a multiple of {@code width}
 * @param classes number of classes; 0 for a network without labels
 * @param norm normalisation in blocks and head
 * @param qkNorm normalisation of queries and keys; {@link Norm#none()} for none
 * @param timeScale factor on the times before their sinusoids, 1 or 1000. du/dt grows with it.
 * @param conditioning which times the network is told
 * @param positions positional embedding
 * @param timeFeatures number of sinusoidal features of a time, even
 */
public record DiTConfig(
    int channels,
    int imageSize,
    int patch,
    int width,
    int depth,
    int heads,
    double mlpRatio,
    int classes,
    Norm norm,
    Norm qkNorm,
    double timeScale,
    TimeConditioning conditioning,
    PositionTable positions,
    int timeFeatures) {

  private static final Pattern PRESET = Pattern.compile("(S|B|M|L|XL)/([1-9][0-9]*)");
  private static final Map<String, int[]> WIDTH_DEPTH_HEADS =
      Map.of(
          "S", new int[] {384, 12, 6},
          "B", new int[] {768, 12, 12},
          "M", new int[] {1024, 16, 16},
          "L", new int[] {1024, 24, 16},
          "XL", new int[] {1152, 28, 16});

  /** Checks the ranges and that sizes divide. */
  public DiTConfig {
    require(channels >= 1, "channels must be >= 1, got %s", channels);
    require(patch >= 1, "patch must be >= 1, got %s", patch);
    require(
        imageSize >= patch && imageSize % patch == 0,
        "imageSize must be a multiple of patch (%s), got %s",
        patch,
        imageSize);
    require(depth >= 1, "depth must be >= 1, got %s", depth);
    require(heads >= 1, "heads must be >= 1, got %s", heads);
    require(
        width >= 4 && width % heads == 0 && width % 4 == 0,
        "width must be a multiple of heads (%s) and of 4, got %s",
        heads,
        width);
    require(
        mlpRatio > 0 && mlpRatio <= 64 && Math.rint(width * mlpRatio) >= 1,
        "mlpRatio must be in (0, 64], got %s",
        mlpRatio);
    require(classes >= 0, "classes must be >= 0, got %s", classes);
    require(
        timeScale > 0 && Double.isFinite(timeScale),
        "timeScale must be finite and > 0, got %s",
        timeScale);
    require(
        timeFeatures >= 2 && timeFeatures % 2 == 0,
        "timeFeatures must be even and >= 2, got %s",
        timeFeatures);
  }

  /**
   * A network of a size of the DiT paper, with the conventions of the MeanFlow paper: layer norm,
   * no q/k norm, conditioning on (t, t − r), times not scaled, fixed positional table.
   *
   * @param name size and patch: S, B, M, L or XL, a slash and the side of a patch, e.g. {@code B/4}
   * @param channels channels of an image
   * @param imageSize height and width of an image, pixels (or latent pixels)
   * @param classes number of classes; 0 for a network without labels
   * @return the configuration
   * @throws IllegalArgumentException if the name is unknown or the sizes do not fit
   */
  public static DiTConfig preset(String name, int channels, int imageSize, int classes) {
    Matcher matcher = PRESET.matcher(name.toUpperCase(Locale.ROOT));
    require(matcher.matches(), "preset must be like B/4, size one of S, B, M, L, XL, got %s", name);
    int[] size = Objects.requireNonNull(WIDTH_DEPTH_HEADS.get(matcher.group(1)));
    return new DiTConfig(
        channels,
        imageSize,
        Integer.parseInt(matcher.group(2)),
        size[0],
        size[1],
        size[2],
        4,
        classes,
        Norm.layer(),
        Norm.none(),
        1,
        TimeConditioning.T_H,
        PositionTable.FIXED,
        256);
  }

  /** {@return patches along one side of an image} */
  public int grid() {
    return imageSize / patch;
  }

  @SuppressWarnings("AnnotateFormatMethod") // not worth a dependency
  private static void require(boolean valid, String message, Object... arguments) {
    if (!valid) {
      throw new IllegalArgumentException("model." + message.formatted(arguments));
    }
  }
}
