package org.meanflow.nn.layer;

import org.meanflow.nn.autodiff.Dual;
import org.meanflow.nn.autodiff.Initializer;
import org.meanflow.nn.autodiff.ParameterLayout;
import org.meanflow.nn.autodiff.Tape;
import org.meanflow.nn.primitive.FeedForward;

/** Linear, GELU, Linear: {@code NAME.fc1} and {@code NAME.fc2}. */
public final class Mlp {
  private final String name;
  private final LinearLayer first;
  private final LinearLayer second;

  /**
   * Declares the parameters.
   *
   * @param layout where the parameters are declared
   * @param name prefix of their names
   * @param width extent of input and result
   * @param hidden extent in between
   */
  public Mlp(ParameterLayout layout, String name, int width, int hidden) {
    Initializer xavier = Initializer.xavierUniform();
    this.name = name;
    this.first = new LinearLayer(layout, name + ".fc1", xavier, hidden, width);
    this.second = new LinearLayer(layout, name + ".fc2", xavier, width, hidden);
  }

  /**
   * Applies the layer.
   *
   * @param tape computes, and holds the parameters
   * @param x {@code [batch, ..., width]}
   * @return the shape of {@code x}
   */
  public Dual forward(Tape tape, Dual x) {
    return tape.scope(
        name,
        () ->
            tape.apply(
                new FeedForward(),
                x,
                tape.parameter(first.weight()),
                tape.parameter(first.bias()),
                tape.parameter(second.weight()),
                tape.parameter(second.bias())));
  }
}
