package org.meanflow.nn.autodiff;

import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.nn.engine.Cotangent;
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
  private final Map<Constant, Tensor> constants;
  private @Nullable Tensor gradients;
  private @Nullable Map<String, Tensor> gradientViews;

  /** Parameters whose gradient is zero, whatever the buffer holds. */
  private final Set<String> cleared = new LinkedHashSet<>();

  /** Σ of squares of gradients, by parameter, where the kernel that wrote it last told it. */
  private final Map<String, Double> squares = new HashMap<>();

  /**
   * A store of zeros.
   *
   * @param engine holds the numbers
   * @param layout names, shapes and places, complete: what is declared later is not in the store
   */
  public ParameterStore(Engine engine, ParameterLayout layout) {
    this.engine = engine;
    this.layout = layout;
    this.values = zeroBuffer();
    this.valueViews = views(values);
    this.constants = new HashMap<>();
    for (Constant constant : layout.constants()) {
      constants.put(
          constant,
          engine.copyOf(Nd4j.createFromArray(constant.values()).reshape(constant.shape())));
    }
  }

  private ParameterStore(Engine engine, ParameterStore original) {
    this.engine = engine;
    this.layout = original.layout;
    this.values = original.values;
    this.valueViews = original.valueViews;
    this.constants = original.constants;
  }

  /**
   * A store with the same values in the same memory, but with gradients of its own. It needs no
   * closing, and must not be used after this one was closed.
   *
   * @param member an engine of the {@linkplain Engine#team team} that holds these parameters
   * @return a new store
   */
  public ParameterStore replica(Engine member) {
    return new ParameterStore(member, this);
  }

  /**
   * A store with the initial values that the layers asked for.
   *
   * @param engine holds the numbers
   * @param layout names, shapes, places and laws of the values
   * @param seed fixes all values, whatever the engine
   * @return a new store
   */
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

  /** {@return the engine that holds the numbers} */
  public Engine engine() {
    return engine;
  }

  /** {@return names, shapes and places} */
  public ParameterLayout layout() {
    return layout;
  }

  /** {@return all values, flat; padding is zero} */
  public Tensor values() {
    return values;
  }

  /** {@return all gradients, flat; allocated, and zero, on first use} */
  public Tensor gradients() {
    squares.clear(); // they may be changed now
    return writtenGradients();
  }

  /**
   * The squared norm of all gradients. After a backward pass this is faster than to read them
   * again, for kernels sum up what they write. What is written into {@link #gradients} is noticed
   * if they were asked for after the last backward pass.
   *
   * @return Σ g², accumulated in float64; NaN or infinite if a gradient is
   */
  public double squaredGradientNorm() {
    Tensor buffer = writtenGradients();
    double sum = 0;
    long start = 0;
    for (Parameter parameter : layout.parameters()) {
      Double known = squares.get(parameter.name());
      if (known != null) {
        sum += squaredNorm(buffer, start, parameter.offset()) + known;
        start = parameter.end();
      }
    }
    return sum + squaredNorm(buffer, start, layout.length());
  }

  private double squaredNorm(Tensor buffer, long start, long end) {
    return start == end
        ? 0
        : engine.kernels().optimizer().squaredNorm(buffer.view(start, end - start));
  }

  private Tensor writtenGradients() {
    Tensor buffer = gradientBuffer();
    for (String name : cleared) {
      engine.kernels().elementwise().fill(gradientView(name), 0);
    }
    cleared.clear();
    return buffer;
  }

  /**
   * Makes all gradients zero. Writes nothing yet: the next contribution to a gradient overwrites
   * it, and what has none by then is written when the gradients are read.
   */
  public void clearGradients() {
    gradientBuffer();
    squares.clear();
    cleared.addAll(valueViews.keySet());
  }

  /** Where a backward rule puts a contribution to a gradient. */
  Cotangent contribution(Parameter parameter, boolean zeroFirst) {
    gradientBuffer();
    Tensor target = view(Objects.requireNonNull(gradientViews), parameter);
    boolean first = cleared.remove(parameter.name());
    if (first && zeroFirst) {
      engine.kernels().elementwise().fill(target, 0);
    }
    squares.remove(parameter.name());
    return new Cotangent(target, zeroFirst || !first, sum -> squares.put(parameter.name(), sum));
  }

  private Tensor gradientBuffer() {
    Tensor existing = gradients;
    if (existing == null) {
      existing = zeroBuffer();
      gradients = existing;
      gradientViews = views(existing);
    }
    return existing;
  }

  private Tensor gradientView(String name) {
    return Objects.requireNonNull(Objects.requireNonNull(gradientViews).get(name));
  }

  /**
   * The value of a parameter.
   *
   * @param parameter one of {@link #layout}
   * @return a view of {@link #values}
   * @throws IllegalArgumentException if the layout has no parameter of that name
   */
  public Tensor value(Parameter parameter) {
    return view(valueViews, parameter);
  }

  /**
   * The gradient of a parameter.
   *
   * @param parameter one of {@link #layout}
   * @return a view of {@link #gradients}
   * @throws IllegalArgumentException if the layout has no parameter of that name
   */
  public Tensor gradient(Parameter parameter) {
    gradients();
    return view(Objects.requireNonNull(gradientViews), parameter);
  }

  /** Fixed numbers of the network. */
  Tensor constant(Constant constant) {
    return Objects.requireNonNull(constants.get(constant), "constant of another network");
  }

  /**
   * A buffer of this layout, for an optimiser's moments.
   *
   * @return a new tensor of {@link ParameterLayout#length} zeros, the caller's to close
   */
  public Tensor zeroBuffer() {
    Tensor buffer = engine.allocate(layout.length());
    engine.kernels().elementwise().fill(buffer, 0);
    return buffer;
  }

  /**
   * A store of the same layout and values, for a moving average.
   *
   * @return a new store, the caller's to close
   */
  public ParameterStore copy() {
    ParameterStore copy = new ParameterStore(engine, layout);
    engine.kernels().elementwise().copy(values, copy.values);
    return copy;
  }

  /**
   * Reads one parameter.
   *
   * @param parameter one of {@link #layout}
   * @return a new array of its shape, in the precision of the engine
   */
  public INDArray read(Parameter parameter) {
    return engine.read(value(parameter));
  }

  /**
   * Changes one parameter.
   *
   * @param parameter one of {@link #layout}
   * @param numbers new values, as many as it has elements
   */
  public void write(Parameter parameter, INDArray numbers) {
    engine.write(numbers, value(parameter));
  }

  @Override
  public void close() {
    values.close();
    constants.values().forEach(Tensor::close);
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
