package org.meanflow.nn.autodiff;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.meanflow.nn.engine.Tensor;

/**
 * Names, shapes and places of all parameters of a network in one flat buffer. Layers declare theirs
 * when a network is built; the numbers live in {@link ParameterStore}s, of which a network may have
 * several (the trained weights, each moving average).
 */
public final class ParameterLayout {
  private final Map<String, Parameter> parameters = new LinkedHashMap<>();
  private final List<Constant> constants = new ArrayList<>();
  private long length;

  /** A layout without parameters. */
  public ParameterLayout() {}

  /**
   * Adds a parameter behind those declared before.
   *
   * @param name name as in a PyTorch state dict, {@code blocks.0.attn.qkv.weight}
   * @param initializer law of its first values
   * @param shape extents
   * @return the parameter
   * @throws IllegalArgumentException if the name is taken
   */
  public Parameter declare(String name, Initializer initializer, long... shape) {
    Parameter parameter = new Parameter(name, shape, length, initializer);
    if (parameters.putIfAbsent(name, parameter) != null) {
      throw new IllegalArgumentException("parameter '" + name + "' is declared twice");
    }
    length = parameter.end();
    return parameter;
  }

  /**
   * Adds fixed numbers.
   *
   * @param values row-major values
   * @param shape extents
   * @return the constant
   */
  public Constant declareConstant(double[] values, long... shape) {
    Constant constant = new Constant(values, shape);
    constants.add(constant);
    return constant;
  }

  /** {@return all constants, in the order of their declaration} */
  public List<Constant> constants() {
    return Collections.unmodifiableList(constants);
  }

  /** {@return all parameters, in the order of their declaration} */
  public List<Parameter> parameters() {
    return Collections.unmodifiableList(new ArrayList<>(parameters.values()));
  }

  /** {@return the number of elements of a buffer of this layout, padding included} */
  public long length() {
    return length;
  }

  /** {@return the number of trainable numbers, padding excluded} */
  public long count() {
    return parameters.values().stream().mapToLong(p -> Tensor.size(p.shape())).sum();
  }
}
