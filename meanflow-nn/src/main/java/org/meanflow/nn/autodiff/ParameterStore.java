package org.meanflow.nn.autodiff;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/**
 * The numbers of a network's parameters, in one flat buffer on an engine, and their gradients in
 * another of the same layout. So the optimiser, clipping and averaging are loops over one long
 * array.
 */
public final class ParameterStore implements AutoCloseable {
  private final Engine engine;
  private final ParameterLayout layout;
  private final Tensor values;
  private final Map<String, Tensor> valueViews;
  private @Nullable Tensor gradients;
  private @Nullable Map<String, Tensor> gradientViews;

  /** A store of zeros. */
  public ParameterStore(Engine engine, ParameterLayout layout) {
    this.engine = engine;
    this.layout = layout;
    this.values = zeroBuffer();
    this.valueViews = views(values);
  }

  /** A store with the initial values that the layers asked for, a function of {@code seed}. */
  public static ParameterStore initialized(Engine engine, ParameterLayout layout, long seed) {
    ParameterStore store = new ParameterStore(engine, layout);
    List<Parameter> parameters = layout.parameters();
    for (int i = 0; i < parameters.size(); i++) {
      Parameter parameter = parameters.get(i);
      RandomStream random = new RandomStream(seed, i, Purpose.INITIALISATION);
      double[] initial = parameter.initializer().values(parameter.shape(), random);
      engine.write(Nd4j.createFromArray(initial), store.value(parameter));
    }
    return store;
  }

  /** The engine that holds the numbers. */
  public Engine engine() {
    return engine;
  }

  /** Names, shapes and places. */
  public ParameterLayout layout() {
    return layout;
  }

  /** All values, flat; padding is zero. */
  public Tensor values() {
    return values;
  }

  /** All gradients, flat; allocated, and zero, on first use. */
  public Tensor gradients() {
    Tensor existing = gradients;
    if (existing == null) {
      existing = zeroBuffer();
      gradients = existing;
      gradientViews = views(existing);
    }
    return existing;
  }

  /** The value of a parameter, as a view. */
  public Tensor value(Parameter parameter) {
    return view(valueViews, parameter);
  }

  /** The gradient of a parameter, as a view. */
  public Tensor gradient(Parameter parameter) {
    gradients();
    return view(java.util.Objects.requireNonNull(gradientViews), parameter);
  }

  /** A buffer of this layout filled with zeros, for an optimiser's moments. */
  public Tensor zeroBuffer() {
    Tensor buffer = engine.allocate(layout.length());
    engine.kernels().fill(buffer, 0);
    return buffer;
  }

  /** A store of the same layout and values, for a moving average. */
  public ParameterStore copy() {
    ParameterStore copy = new ParameterStore(engine, layout);
    engine.kernels().copy(values, copy.values);
    return copy;
  }

  /** Reads one parameter. */
  public INDArray read(Parameter parameter) {
    return engine.read(value(parameter));
  }

  /** Changes one parameter. */
  public void write(Parameter parameter, INDArray numbers) {
    engine.write(numbers, value(parameter));
  }

  @Override
  public void close() {
    values.close();
    if (gradients != null) {
      gradients.close();
    }
  }

  private Map<String, Tensor> views(Tensor buffer) {
    Map<String, Tensor> views = new LinkedHashMap<>();
    for (Parameter parameter : layout.parameters()) {
      views.put(parameter.name(), buffer.view(parameter.offset(), parameter.shape()));
    }
    return views;
  }

  private static Tensor view(Map<String, Tensor> views, Parameter parameter) {
    Tensor view = views.get(parameter.name());
    if (view == null) {
      throw new IllegalArgumentException(
          "parameter '" + parameter.name() + "' belongs to another network");
    }
    return view;
  }
}
