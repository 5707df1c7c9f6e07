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
  /** Parameters start at multiples of this many elements, for aligned vector access. */
  private static final int ALIGNMENT = 16;

  private final Map<String, Parameter> parameters = new LinkedHashMap<>();
  private long length;

  /**
   * Adds a parameter.
   *
   * @throws IllegalArgumentException if the name is taken
   */
  public Parameter declare(String name, Initializer initializer, long... shape) {
    Parameter parameter = new Parameter(name, shape, length, initializer);
    if (parameters.putIfAbsent(name, parameter) != null) {
      throw new IllegalArgumentException("parameter '" + name + "' is declared twice");
    }
    length += Math.ceilDiv(Tensor.size(shape), ALIGNMENT) * ALIGNMENT;
    return parameter;
  }

  /** All parameters, in the order of their declaration. */
  public List<Parameter> parameters() {
    return Collections.unmodifiableList(new ArrayList<>(parameters.values()));
  }

  /** The number of elements of a buffer of this layout, padding included. */
  public long length() {
    return length;
  }

  /** The number of trainable numbers, padding excluded. */
  public long count() {
    return parameters.values().stream().mapToLong(p -> Tensor.size(p.shape())).sum();
  }
}
