package org.meanflow.nn.layer;

import org.meanflow.nn.autodiff.Dual;
import org.meanflow.nn.autodiff.Initializer;
import org.meanflow.nn.autodiff.ParameterLayout;
import org.meanflow.nn.autodiff.Tape;
import org.meanflow.nn.primitive.Silu;
import org.meanflow.nn.primitive.TimeFeatures;

/** Embeds a time: sinusoidal features, then Linear, SiLU, Linear (DiT, arXiv 2212.09748). */
public final class TimestepEmbedder {
  private final String name;
  private final TimeFeatures features;
  private final LinearLayer first;
  private final LinearLayer second;

  /**
   * Declares the parameters {@code NAME.mlp.0.*} and {@code NAME.mlp.2.*}.
   *
   * @param layout where the parameters are declared
   * @param name prefix of their names
   * @param timeScale factor on the times before their sinusoids
   * @param featureCount number of sinusoidal features, even
   * @param width extent of an embedding
   */
  public TimestepEmbedder(
      ParameterLayout layout, String name, double timeScale, int featureCount, int width) {
    Initializer normal = Initializer.normal(0.02);
    this.name = name;
    this.features = new TimeFeatures(timeScale, featureCount);
    this.first = new LinearLayer(layout, name + ".mlp.0", normal, width, featureCount);
    this.second = new LinearLayer(layout, name + ".mlp.2", normal, width, width);
  }

  /**
   * Embeds one time for each sample.
   *
   * @param tape computes, and holds the parameters
   * @param t times, {@code [batch]}
   * @return the embeddings, {@code [batch, width]}
   */
  public Dual forward(Tape tape, Dual t) {
    return tape.scope(
        name,
        () -> {
          Dual hidden = first.forward(tape, tape.apply(features, t));
          return second.forward(tape, tape.apply(new Silu(), hidden));
        });
  }
}
