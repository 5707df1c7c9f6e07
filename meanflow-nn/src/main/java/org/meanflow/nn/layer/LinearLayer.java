package org.meanflow.nn.layer;

import org.meanflow.nn.autodiff.Dual;
import org.meanflow.nn.autodiff.Initializer;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterLayout;
import org.meanflow.nn.autodiff.Tape;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.primitive.Linear;

/** Affine map of the last dimension, with parameters {@code NAME.weight} and {@code NAME.bias}. */
public final class LinearLayer {
  private final Linear linear;
  private final Parameter weight;
  private final Parameter bias;

  /**
   * Declares the parameters; the bias starts at zero.
   *
   * @param layout where the parameters are declared
   * @param name prefix of their names
   * @param initializer law of the first weights
   * @param shape extents of the weight, {@code [out, in...]}
   */
  public LinearLayer(ParameterLayout layout, String name, Initializer initializer, long... shape) {
    this(Storage.FULL, layout, name, initializer, shape);
  }

  /**
   * Declares the parameters; the bias starts at zero.
   *
   * @param storage how precisely the results are kept
   * @param layout where the parameters are declared
   * @param name prefix of their names
   * @param initializer law of the first weights
   * @param shape extents of the weight, {@code [out, in...]}
   */
  public LinearLayer(
      Storage storage,
      ParameterLayout layout,
      String name,
      Initializer initializer,
      long... shape) {
    linear = new Linear(storage);
    weight = layout.declare(name + ".weight", initializer, shape);
    bias = layout.declare(name + ".bias", Initializer.zeros(), shape[0]);
  }

  /**
   * y = x Wᵀ + b.
   *
   * @param tape computes, and holds the parameters
   * @param x {@code [batch, ..., in]}
   * @return y, {@code [batch, ..., out]}
   */
  public Dual forward(Tape tape, Dual x) {
    return tape.apply(linear, x, tape.parameter(weight), tape.parameter(bias));
  }

  Parameter weight() {
    return weight;
  }

  Parameter bias() {
    return bias;
  }
}
