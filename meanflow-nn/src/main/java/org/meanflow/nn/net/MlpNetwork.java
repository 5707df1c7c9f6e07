package org.meanflow.nn.net;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.VelocityNetwork;
import org.meanflow.nn.autodiff.Dual;
import org.meanflow.nn.autodiff.Initializer;
import org.meanflow.nn.autodiff.ParameterLayout;
import org.meanflow.nn.autodiff.Tape;
import org.meanflow.nn.layer.LabelEmbedder;
import org.meanflow.nn.layer.LinearLayer;
import org.meanflow.nn.primitive.LinearCombination;
import org.meanflow.nn.primitive.Silu;
import org.meanflow.nn.primitive.TimeFeatures;

/**
 * A multilayer perceptron u_θ(z, r, t | c) on points {@code [batch, dimensions]}, for toys and for
 * tests against closed forms. With φ the sinusoidal features of a time and E the label's embedding,
 *
 * <pre>{@code
 * x₀   = W_z z + W_t φ(t) + W_h φ(t − r) + E(c)
 * x_k  = x_{k−1} + W_k silu(x_{k−1}),   k = 1 … depth
 * u    = W_out silu(x_depth)
 * }</pre>
 *
 * <p>every W with its bias. Parameters: {@code z_embedder}, {@code t_embedder}, {@code h_embedder},
 * {@code y_embedder} (with classes), {@code layers.0} …, {@code head}. Weights start Xavier-uniform
 * and the head at zero, so that u starts at zero.
 */
public final class MlpNetwork implements VelocityNetwork {
  private final MlpConfig config;
  private final ParameterLayout layout = new ParameterLayout();
  private final TimeFeatures timeFeatures;
  private final LinearLayer pointEmbedder;
  private final LinearLayer timeEmbedder;
  private final LinearLayer gapEmbedder;
  private final @Nullable LabelEmbedder labelEmbedder;
  private final List<LinearLayer> layers = new ArrayList<>();
  private final LinearLayer head;

  /**
   * A network of the given architecture.
   *
   * @param config the architecture
   */
  public MlpNetwork(MlpConfig config) {
    this.config = config;
    int width = config.width();
    Initializer xavier = Initializer.xavierUniform();
    timeFeatures = new TimeFeatures(config.timeScale(), config.timeFeatures());
    pointEmbedder = new LinearLayer(layout, "z_embedder", xavier, width, config.dimensions());
    timeEmbedder = new LinearLayer(layout, "t_embedder", xavier, width, config.timeFeatures());
    gapEmbedder = new LinearLayer(layout, "h_embedder", xavier, width, config.timeFeatures());
    labelEmbedder =
        config.classes() > 0
            ? new LabelEmbedder(layout, "y_embedder", config.classes(), width)
            : null;
    for (int i = 0; i < config.depth(); i++) {
      layers.add(new LinearLayer(layout, "layers." + i, xavier, width, width));
    }
    head = new LinearLayer(layout, "head", Initializer.zeros(), config.dimensions(), width);
  }

  /** {@return the architecture} */
  public MlpConfig config() {
    return config;
  }

  @Override
  public ParameterLayout parameters() {
    return layout;
  }

  @Override
  public Dual forward(Tape tape, Dual z, Dual r, Dual t, int @Nullable [] labels) {
    checkInput(z, labels);
    Dual x = tape.scope("embedders", () -> embed(tape, z, r, t, labels));
    for (int i = 0; i < layers.size(); i++) {
      LinearLayer layer = layers.get(i);
      Dual input = x;
      x =
          tape.scope(
              "layers." + i,
              () -> plus(tape, input, layer.forward(tape, tape.apply(new Silu(), input))));
    }
    Dual last = x;
    return tape.scope("head", () -> head.forward(tape, tape.apply(new Silu(), last)));
  }

  private Dual embed(Tape tape, Dual z, Dual r, Dual t, int @Nullable [] labels) {
    Dual h = tape.apply(LinearCombination.difference(), t, r);
    Dual times =
        plus(
            tape,
            timeEmbedder.forward(tape, tape.apply(timeFeatures, t)),
            gapEmbedder.forward(tape, tape.apply(timeFeatures, h)));
    Dual sum = plus(tape, pointEmbedder.forward(tape, z), times);
    return labelEmbedder == null
        ? sum
        : plus(tape, sum, labelEmbedder.forward(tape, labels, z.shape()[0]));
  }

  private static Dual plus(Tape tape, Dual a, Dual b) {
    return tape.apply(LinearCombination.sum(), a, b);
  }

  private void checkInput(Dual z, int @Nullable [] labels) {
    long[] shape = z.shape();
    if (shape.length != 2 || shape[1] != config.dimensions()) {
      throw new IllegalArgumentException(
          "z must be [batch, %d], got %s".formatted(config.dimensions(), Arrays.toString(shape)));
    }
    if (labelEmbedder == null && labels != null) {
      throw new IllegalArgumentException("labels must be null for a network without classes");
    }
  }
}
