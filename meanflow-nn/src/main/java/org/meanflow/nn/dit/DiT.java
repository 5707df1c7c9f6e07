package org.meanflow.nn.dit;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.VelocityNetwork;
import org.meanflow.nn.autodiff.Constant;
import org.meanflow.nn.autodiff.Dual;
import org.meanflow.nn.autodiff.Initializer;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterLayout;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.autodiff.Tape;
import org.meanflow.nn.engine.PatchOrder;
import org.meanflow.nn.layer.LabelEmbedder;
import org.meanflow.nn.layer.LinearLayer;
import org.meanflow.nn.layer.PositionTable;
import org.meanflow.nn.layer.TimestepEmbedder;
import org.meanflow.nn.primitive.AddTable;
import org.meanflow.nn.primitive.LinearCombination;
import org.meanflow.nn.primitive.Patchify;
import org.meanflow.nn.primitive.Silu;

/**
 * The diffusion transformer u_θ(z, r, t | c) on images {@code [batch, channels, size, size]}:
 * patches become tokens, times and label become one conditioning vector, blocks with adaLN-zero
 * follow (Peebles and Xie, arXiv 2212.09748; with two times, arXiv 2505.13447, section 4.3).
 *
 * <p>Parameter names and shapes are those of the public PyTorch code. Initialisation is that of
 * DiT: Xavier-uniform weights, normal (0.02) embeddings, and zero modulation and head, so that u
 * starts at zero.
 */
public final class DiT implements VelocityNetwork {
  private final DiTConfig config;
  private final ParameterLayout layout = new ParameterLayout();
  private final LinearLayer patchEmbedder;
  private final List<TimeInput> timeInputs = new ArrayList<>();
  private final @Nullable LabelEmbedder labelEmbedder;
  private final @Nullable Parameter learnedPositions;
  private final @Nullable Constant fixedPositions;
  private final List<DiTBlock> blocks = new ArrayList<>();
  private final FinalLayer finalLayer;

  private enum Time {
    T,
    R,
    H
  }

  private record TimeInput(Time time, TimestepEmbedder embedder) {}

  /**
   * A network; its numbers are a {@link ParameterStore} of its layout.
   *
   * @param config the architecture
   */
  public DiT(DiTConfig config) {
    this.config = config;
    int width = config.width();
    int patch = config.patch();
    patchEmbedder =
        new LinearLayer(
            layout,
            "x_embedder.proj",
            Initializer.xavierUniform(),
            width,
            config.channels(),
            patch,
            patch);
    switch (config.conditioning()) {
      case T_R -> {
        addTime(Time.T, "t_embedder");
        addTime(Time.R, "r_embedder");
      }
      case T_H -> {
        addTime(Time.T, "t_embedder");
        addTime(Time.H, "h_embedder");
      }
      case H -> addTime(Time.H, "h_embedder");
    }
    labelEmbedder =
        config.classes() > 0
            ? new LabelEmbedder(layout, "y_embedder", config.classes(), width)
            : null;
    double[] sinusoids = PositionTable.sinusoids(config.grid(), config.grid(), width);
    long tokens = (long) config.grid() * config.grid();
    learnedPositions =
        config.positions() == PositionTable.LEARNED
            ? layout.declare("pos_embed", (shape, random) -> sinusoids, 1, tokens, width)
            : null;
    fixedPositions =
        learnedPositions == null
            ? layout.declareConstant(roundToFloat(sinusoids), 1, tokens, width)
            : null;
    for (int i = 0; i < config.depth(); i++) {
      blocks.add(new DiTBlock(layout, "blocks." + i, config));
    }
    finalLayer = new FinalLayer(layout, "final_layer", config);
  }

  /** {@return the architecture} */
  public DiTConfig config() {
    return config;
  }

  @Override
  public ParameterLayout parameters() {
    return layout;
  }

  @Override
  public Dual forward(Tape tape, Dual z, Dual r, Dual t, int @Nullable [] labels) {
    checkInput(z, labels);
    Dual activatedCondition =
        tape.scope("condition", () -> tape.apply(new Silu(), condition(tape, r, t, labels)));
    Dual x = tape.scope("x_embedder", () -> embed(tape, z));
    for (DiTBlock block : blocks) {
      Dual before = x;
      x = block.forward(tape, before, activatedCondition);
      tape.release(before);
    }
    return finalLayer.forward(tape, x, activatedCondition);
  }

  private Dual embed(Tape tape, Dual z) {
    Dual patches = tape.apply(new Patchify(PatchOrder.CHANNEL_FIRST, config.patch()), z);
    Dual tokens = patchEmbedder.forward(tape, patches);
    return tape.apply(new AddTable(), tokens, positions(tape));
  }

  private Dual positions(Tape tape) {
    return learnedPositions != null
        ? tape.parameter(learnedPositions)
        : tape.constant(Objects.requireNonNull(fixedPositions));
  }

  private Dual condition(Tape tape, Dual r, Dual t, int @Nullable [] labels) {
    Dual sum = null;
    for (TimeInput input : timeInputs) {
      Dual time =
          switch (input.time) {
            case T -> t;
            case R -> r;
            case H -> tape.apply(LinearCombination.difference(), t, r);
          };
      sum = plus(tape, sum, input.embedder.forward(tape, time));
    }
    if (labelEmbedder != null) {
      sum = plus(tape, sum, labelEmbedder.forward(tape, labels, t.shape()[0]));
    }
    return Objects.requireNonNull(sum);
  }

  private static Dual plus(Tape tape, @Nullable Dual sum, Dual term) {
    return sum == null ? term : tape.apply(LinearCombination.sum(), sum, term);
  }

  private void addTime(Time time, String name) {
    timeInputs.add(
        new TimeInput(
            time,
            new TimestepEmbedder(
                layout, name, config.timeScale(), config.timeFeatures(), config.width())));
  }

  private void checkInput(Dual z, int @Nullable [] labels) {
    long[] shape = z.shape();
    if (shape.length != 4
        || shape[1] != config.channels()
        || shape[2] != config.imageSize()
        || shape[3] != config.imageSize()) {
      throw new IllegalArgumentException(
          "z must be [batch, %d, %d, %d], got %s"
              .formatted(
                  config.channels(),
                  config.imageSize(),
                  config.imageSize(),
                  Arrays.toString(shape)));
    }
    if (labelEmbedder == null && labels != null) {
      throw new IllegalArgumentException("labels must be null for a network without classes");
    }
  }

  private static double[] roundToFloat(double[] values) {
    return Arrays.stream(values).map(value -> (float) value).toArray();
  }
}
