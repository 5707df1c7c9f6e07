package org.meanflow.nn.autodiff;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.Function;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;

/**
 * One evaluation of a network. Applying primitives computes values and tangents; a recording tape
 * also remembers what a backward pass needs. Closing a tape gives back the memory of everything
 * that was computed on it.
 */
@SuppressWarnings("ReferenceEquality") // resources are compared by identity
public final class Tape implements AutoCloseable {

  /** What a tape is for. */
  public enum Mode {
    /** Values and tangents only; intermediate results are given back as soon as possible. */
    EVALUATE,
    /** A backward pass may follow. */
    RECORD
  }

  private final Engine engine;
  private final ParameterStore parameters;
  private final Mode mode;
  private final List<Node> nodes = new ArrayList<>();
  private final List<AutoCloseable> owned = new ArrayList<>();
  private String scope = "";
  private boolean backwardDone;

  private record Node(String scope, Primitive primitive, Dual[] inputs, Dual output, Saved saved) {

    String name() {
      String operation = primitive.getClass().getSimpleName();
      return scope.isEmpty() ? operation : scope + " (" + operation + ")";
    }
  }

  /**
   * A tape for one evaluation.
   *
   * @param parameters θ; a backward pass adds to their gradients
   * @param mode whether a backward pass may follow
   */
  public Tape(ParameterStore parameters, Mode mode) {
    this.engine = parameters.engine();
    this.parameters = parameters;
    this.mode = mode;
  }

  /** {@return the engine that computes} */
  public Engine engine() {
    return engine;
  }

  /**
   * A tensor that lives as long as this tape.
   *
   * @param shape extents
   * @return a tensor with undefined content
   */
  public Tensor allocate(long... shape) {
    return allocate(Storage.FULL, shape);
  }

  /** A tensor that lives as long as this tape. */
  Tensor allocate(Storage storage, long... shape) {
    Tensor tensor = engine.allocate(storage, shape);
    owned.add(tensor);
    return tensor;
  }

  /**
   * Fixed numbers of the network, such as a positional table.
   *
   * @param constant declared by the network's layout
   * @return a dual number without tangent or gradient
   */
  public Dual constant(Constant constant) {
    return new Dual(parameters.constant(constant));
  }

  /**
   * An input with the tangent of its first samples.
   *
   * @param stacked {@code [batch + m, ...]}: values, then tangents; the tape does not own it
   * @param batch number of samples
   * @param differentiable whether {@link #backward} should compute its cotangent
   * @return the dual number
   */
  public Dual input(Tensor stacked, long batch, boolean differentiable) {
    return new Dual(stacked, batch, differentiable && mode == Mode.RECORD);
  }

  /**
   * A parameter of the network.
   *
   * @param parameter declared by the network's layout
   * @return a dual number without tangent; {@link #backward} adds to its gradient in the store
   */
  public Dual parameter(Parameter parameter) {
    return new Dual(
        parameters.value(parameter), mode == Mode.RECORD ? parameters : null, parameter);
  }

  /**
   * Applies a primitive.
   *
   * @param primitive the operation
   * @param inputs its inputs, all on this tape
   * @return the result, with a tangent if an input has one
   * @throws IllegalArgumentException if the shapes of the inputs do not fit, naming the layer
   */
  public Dual apply(Primitive primitive, Dual... inputs) {
    long[] shape = shape(primitive, inputs);
    long tangentRows = 0;
    boolean differentiable = false;
    for (Dual input : inputs) {
      Tensor tangent = input.tangent();
      if (tangent != null) {
        tangentRows = tangent.dim(0);
      }
      differentiable |= input.isDifferentiable();
    }
    differentiable &= mode == Mode.RECORD;
    long batch = shape[0];
    shape[0] = batch + tangentRows;
    Dual output = new Dual(allocate(primitive.storage(), shape), batch, differentiable);
    Kernels k = engine.kernels();
    Saved saved;
    Tensor tangent = output.tangent();
    if (tangent != null && primitive instanceof Primitive.Stackable stackable) {
      stackable.forwardStacked(k, tensors(inputs, Dual::stacked), batch, output.stacked());
      saved = Saved.NOTHING;
    } else {
      boolean keep = differentiable || tangent != null;
      saved = primitive.forward(k, tensors(inputs, Dual::value), output.value(), keep);
      if (tangent != null) {
        long rows = tangentRows;
        var evaluation =
            new Primitive.Evaluation(
                tensors(inputs, input -> input.firstSamples(rows)),
                output.firstSamples(rows),
                saved);
        primitive.jvp(k, evaluation, tangents(inputs), tangent);
      }
    }
    if (differentiable) {
      owned.add(saved);
      nodes.add(new Node(scope, primitive, inputs.clone(), output, saved));
    } else {
      saved.close();
    }
    return output;
  }

  /**
   * Runs one layer under a name, which appears in error messages. When nothing is recorded, all
   * that the layer computed is given back, but for its result.
   *
   * @param name name of the layer, in full: the prefix of its parameters' names
   * @param layer applies primitives to this tape
   * @return what {@code layer} returned
   */
  public Dual scope(String name, Supplier<Dual> layer) {
    String outer = scope;
    int mark = owned.size();
    scope = name;
    try {
      Dual result = layer.get();
      if (mode == Mode.EVALUATE) {
        List<AutoCloseable> inner = owned.subList(mark, owned.size());
        // A layer that returns what it was given returns what is not its to keep.
        boolean computedHere = inner.stream().anyMatch(tensor -> tensor == result.stacked());
        inner.forEach(tensor -> closeUnless(tensor, result.stacked()));
        inner.clear();
        if (computedHere) {
          owned.add(result.stacked());
        }
      }
      return result;
    } finally {
      scope = outer;
    }
  }

  /**
   * Gives back a result that is not read any more, if nothing is recorded: what is computed next
   * gets memory that is in the caches still.
   *
   * @param result a result on this tape, or an input, which is kept
   */
  public void release(Dual result) {
    if (mode == Mode.EVALUATE && owned.removeIf(resource -> resource == result.stacked())) {
      result.stacked().close();
    }
  }

  /**
   * Adds the gradient of ⟨cotangent, output⟩ to the gradients of the parameters, and computes the
   * cotangents of differentiable inputs. Values are given back on the way.
   *
   * @param output a result on this tape
   * @param cotangent the shape of {@code output}; not changed
   * @throws IllegalArgumentException if {@code cotangent} has another shape
   * @throws IllegalStateException on a tape that does not record, or a second time
   */
  public void backward(Dual output, Tensor cotangent) {
    if (mode != Mode.RECORD || backwardDone) {
      throw new IllegalStateException(
          backwardDone ? "backward was already run on this tape" : "this tape does not record");
    }
    if (!Arrays.equals(output.shape(), cotangent.shape())) {
      throw new IllegalArgumentException(
          "cotangent must have shape %s, got %s"
              .formatted(Arrays.toString(output.shape()), Arrays.toString(cotangent.shape())));
    }
    backwardDone = true;
    output.seed(cotangent);
    Kernels k = engine.kernels();
    for (Node node : nodes.reversed()) {
      Tensor gy = node.output.cotangent();
      if (gy != null) {
        var evaluation =
            new Primitive.Evaluation(
                tensors(node.inputs, Dual::value), node.output.value(), node.saved);
        Dual heir = gy == cotangent ? null : heir(node);
        node.primitive.vjp(k, evaluation, gy, cotangents(node, heir));
        if (heir != null) {
          heir.seed(gy);
        } else if (gy != cotangent) {
          gy.close();
        }
      }
      node.saved.close();
      node.output.stacked().close();
    }
  }

  /**
   * Looks for what went wrong, on a recording tape and before {@link #backward}.
   *
   * @return the first operation, in the order of evaluation, whose value or tangent is not finite;
   *     {@code null} if there is none
   */
  public @Nullable String firstNonFinite() {
    for (Node node : nodes) {
      if (!Double.isFinite(engine.kernels().optimizer().squaredNorm(node.output.stacked()))) {
        return node.name();
      }
    }
    return null;
  }

  @Override
  public void close() {
    owned.forEach(tensor -> closeUnless(tensor, null));
    owned.clear();
    nodes.clear();
  }

  private static void closeUnless(AutoCloseable resource, @Nullable Tensor kept) {
    switch (resource) {
      case Tensor tensor when tensor != kept -> tensor.close();
      case Saved saved -> saved.close();
      default -> {}
    }
  }

  private long[] shape(Primitive primitive, Dual[] inputs) {
    List<long[]> shapes = Arrays.stream(inputs).map(Dual::shape).toList();
    try {
      return primitive.shape(shapes).clone();
    } catch (IllegalArgumentException e) {
      throw new IllegalArgumentException((scope.isEmpty() ? "" : scope + ": ") + e.getMessage(), e);
    }
  }

  /** The input that takes over the result's cotangent, if there is one that has none yet. */
  private static @Nullable Dual heir(Node node) {
    for (int i = 0; i < node.inputs.length; i++) {
      Dual input = node.inputs[i];
      if (node.primitive.passesCotangent(i)
          && input.isActivation()
          && input.isDifferentiable()
          && input.cotangent() == null
          && input.value().storage() == node.output.value().storage()) {
        return input;
      }
    }
    return null;
  }

  private @Nullable Cotangent[] cotangents(Node node, @Nullable Dual heir) {
    @Nullable Cotangent[] cotangents = new Cotangent[node.inputs.length];
    for (int i = 0; i < cotangents.length; i++) {
      if (node.inputs[i].isDifferentiable() && node.inputs[i] != heir) {
        cotangents[i] = node.inputs[i].contribution(this, node.primitive.writesPart(i));
      }
    }
    return cotangents;
  }

  private static Tensor[] tensors(Dual[] inputs, Function<Dual, Tensor> part) {
    Tensor[] tensors = new Tensor[inputs.length];
    for (int i = 0; i < inputs.length; i++) {
      tensors[i] = part.apply(inputs[i]);
    }
    return tensors;
  }

  private static @Nullable Tensor[] tangents(Dual[] inputs) {
    @Nullable Tensor[] tangents = new Tensor[inputs.length];
    for (int i = 0; i < inputs.length; i++) {
      tangents[i] = inputs[i].tangent();
    }
    return tangents;
  }
}
