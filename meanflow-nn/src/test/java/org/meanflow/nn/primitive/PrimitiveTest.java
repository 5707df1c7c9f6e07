package org.meanflow.nn.primitive;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.net.URISyntaxException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.TreeSet;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.nn.TestEngines;
import org.meanflow.nn.autodiff.Dual;
import org.meanflow.nn.autodiff.Initializer;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterLayout;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.autodiff.Primitive;
import org.meanflow.nn.autodiff.Tape;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.PatchOrder;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/** The three rules of every primitive against each other and against differences, in float64. */
class PrimitiveTest {
  private static final double STEP = 1e-5;

  /**
   * Truncation h²·|f‴|/6 ≈ 1e-10 and rounding ulp/h ≈ 1e-11, times a factor for third derivatives.
   */
  private static final double DIFFERENCE_TOLERANCE = 1e-7;

  /** Rounding in sums of a few hundred products. */
  private static final double DUALITY_TOLERANCE = 1e-11;

  /** An input of a primitive: an activation, or a parameter if {@code parameter}. */
  private record Input(boolean parameter, long... shape) {}

  private record Case(Primitive primitive, Input... inputs) {
    @Override
    public String toString() {
      return primitive + " of " + inputs.length;
    }
  }

  private static Input x(long... shape) {
    return new Input(false, shape);
  }

  private static Input p(long... shape) {
    return new Input(true, shape);
  }

  /** Every primitive, in every form; batch 3. */
  static Stream<Case> cases() {
    Stream.Builder<Case> cases = Stream.builder();
    cases.add(new Case(new Gelu(), x(3, 4, 5)));
    cases.add(new Case(new Silu(), x(3, 7)));
    cases.add(new Case(new Softmax(), x(3, 2, 6)));
    cases.add(new Case(new LinearCombination(0.7, -1.3), x(3, 2, 4), x(3, 2, 4)));
    cases.add(new Case(LinearCombination.sum(), x(3, 5), x(3, 5)));
    cases.add(new Case(LinearCombination.difference(), x(3), x(3)));
    cases.add(new Case(new Multiply(), x(3, 4), x(3, 4)));
    cases.add(new Case(new Linear(), x(3, 4, 5), p(6, 5), p(6)));
    cases.add(new Case(new Linear(), x(3, 5), p(2, 5)));
    cases.add(new Case(new Linear(), x(3, 1), p(4, 1), p(4)));
    cases.add(new Case(new Linear(), x(3, 2, 12), p(4, 3, 2, 2), p(4)));
    cases.add(new Case(new FeedForward(), x(3, 4, 5), p(6, 5), p(6), p(3, 6), p(3)));
    cases.add(new Case(new AddTable(), x(3, 4, 5), p(1, 4, 5)));
    for (Norm norm : List.of(Norm.rms(), Norm.layer(), Norm.none())) {
      cases.add(new Case(new Normalize(norm), x(3, 4, 6)));
      cases.add(new Case(new Normalize(norm), x(3, 4, 6), p(6)));
      cases.add(new Case(new NormModulate(norm, 0, 1), x(3, 4, 6), x(3, 12)));
      cases.add(new Case(new NormModulate(norm, 3, 1), x(3, 4, 6), x(3, 24)));
      cases.add(new Case(new Attention(2, norm), x(3, 5, 24), p(4), p(4)));
    }
    cases.add(new Case(new Attention(1, Norm.none()), x(3, 2, 6)));
    cases.add(new Case(new Attention(3, Norm.none()), x(3, 4, 18)));
    cases.add(new Case(new GatedResidual(2), x(3, 4, 6), x(3, 4, 6), x(3, 18)));
    cases.add(new Case(new GatedResidual(0), x(3, 1, 2), x(3, 1, 2), x(3, 2)));
    cases.add(new Case(new TimeFeatures(1, 16), x(3)));
    cases.add(new Case(new TimeFeatures(20, 6), x(3)));
    cases.add(new Case(new Embedding(new int[] {4, 0, 4}), p(5, 6)));
    for (PatchOrder order : PatchOrder.values()) {
      cases.add(new Case(new Patchify(order, 2), x(3, 2, 4, 6)));
      cases.add(new Case(new Unpatchify(order, 2, 2, 4, 6), x(3, 6, 8)));
    }
    return cases.build();
  }

  @Test
  void everyPrimitiveHasACase() throws IOException, URISyntaxException {
    // The class file, not its folder by name: the tests' folder has the same name.
    Path linear = Path.of(Objects.requireNonNull(Linear.class.getResource("Linear.class")).toURI());
    Path classes = linear.getParent();
    TreeSet<String> primitives = new TreeSet<>();
    try (Stream<Path> files = Files.list(classes)) {
      for (Path file : (Iterable<Path>) files::iterator) {
        String name = file.getFileName().toString().replace(".class", "");
        if (!name.contains("-") && isPrimitive(name)) {
          primitives.add(name);
        }
      }
    }
    TreeSet<String> tested = new TreeSet<>();
    cases().forEach(c -> tested.add(c.primitive.getClass().getSimpleName()));
    assertThat(primitives).hasSizeGreaterThan(10);
    assertThat(tested).isEqualTo(primitives);
  }

  private static boolean isPrimitive(String name) {
    try {
      return Primitive.class.isAssignableFrom(
          Class.forName(Linear.class.getPackageName() + "." + name));
    } catch (ClassNotFoundException e) {
      return false;
    }
  }

  /** Values and directions of all inputs, and what the rules make of them. */
  private static final class Run implements AutoCloseable {
    final Engine engine;
    final Case c;
    final List<@Nullable Parameter> parameters = new ArrayList<>();
    final ParameterStore store;
    final INDArray[] values;
    final INDArray[] directions;

    Run(Case c) {
      this(c, Engines.create("nd4j", Precision.FP64));
    }

    Run(Case c, Engine engine) {
      this.engine = engine;
      this.c = c;
      ParameterLayout layout = new ParameterLayout();
      values = new INDArray[c.inputs.length];
      directions = new INDArray[c.inputs.length];
      for (int i = 0; i < c.inputs.length; i++) {
        Input input = c.inputs[i];
        parameters.add(
            input.parameter ? layout.declare("p" + i, Initializer.zeros(), input.shape) : null);
        values[i] = random(i, input.shape);
        directions[i] = random(100 + i, input.shape);
      }
      store = new ParameterStore(engine, layout);
    }

    /** Applies the primitive to values moved by {@code h} along the directions. */
    INDArray forward(double h, boolean moveActivations, boolean moveParameters) {
      try (Tape tape = new Tape(store, Tape.Mode.EVALUATE)) {
        Dual[] inputs = new Dual[values.length];
        for (int i = 0; i < inputs.length; i++) {
          boolean moves = c.inputs[i].parameter ? moveParameters : moveActivations;
          inputs[i] = input(tape, i, values[i].add(directions[i].mul(moves ? h : 0)), 0);
        }
        return engine.read(tape.apply(c.primitive, inputs).value());
      }
    }

    INDArray centralDifference(boolean activations, boolean parametersMove) {
      return forward(STEP, activations, parametersMove)
          .sub(forward(-STEP, activations, parametersMove))
          .div(2 * STEP);
    }

    Dual[] inputs(Tape tape, long tangentRows) {
      Dual[] inputs = new Dual[values.length];
      for (int i = 0; i < inputs.length; i++) {
        inputs[i] = input(tape, i, values[i], tangentRows);
      }
      return inputs;
    }

    private Dual input(Tape tape, int i, INDArray value, long tangentRows) {
      Parameter parameter = parameters.get(i);
      if (parameter != null) {
        store.write(parameter, value);
        return tape.parameter(parameter);
      }
      long batch = value.size(0);
      long[] shape = value.shape().clone();
      shape[0] = batch + tangentRows;
      Tensor stacked = tape.allocate(shape);
      engine.write(value, stacked.rows(0, batch));
      if (tangentRows > 0) {
        try (Tensor all = engine.copyOf(directions[i])) {
          engine
              .kernels()
              .elementwise()
              .copy(all.rows(0, tangentRows), stacked.rows(batch, shape[0]));
        }
      }
      return tape.input(stacked, batch, true);
    }

    boolean hasActivation() {
      return parameters.contains(null);
    }

    boolean hasParameter() {
      return parameters.stream().anyMatch(Objects::nonNull);
    }

    @Override
    public void close() {
      store.close();
      engine.close();
    }
  }

  @ParameterizedTest
  @MethodSource("cases")
  void tangentAgreesWithDifferences(Case c) {
    try (Run run = new Run(c)) {
      if (!run.hasActivation()) {
        return; // nothing that could have a tangent
      }
      INDArray difference = run.centralDifference(true, false);
      for (int m : new int[] {3, 2, 1}) {
        try (Tape tape = new Tape(run.store, Tape.Mode.EVALUATE)) {
          Dual y = tape.apply(c.primitive, run.inputs(tape, m));
          INDArray jvp = run.engine.read(Objects.requireNonNull(y.tangent()));
          assertThat(jvp.size(0)).isEqualTo(m);
          assertClose(doubles(jvp), firstRows(difference, m), DIFFERENCE_TOLERANCE);
          assertClose(
              doubles(run.engine.read(y.value())), doubles(run.forward(0, false, false)), 0);
        }
      }
    }
  }

  @ParameterizedTest
  @MethodSource("cases")
  void cotangentAgreesWithTangent(Case c) {
    try (Run run = new Run(c);
        Tape tape = new Tape(run.store, Tape.Mode.RECORD)) {
      Dual[] inputs = run.inputs(tape, run.hasActivation() ? 3 : 0);
      Dual y = tape.apply(c.primitive, inputs);
      INDArray w = random(999, y.shape());
      double expected = 0;
      if (run.hasActivation()) {
        expected = dot(w, run.engine.read(Objects.requireNonNull(y.tangent())));
      }
      backward(run, tape, y, w);
      double actual = 0;
      for (int i = 0; i < inputs.length; i++) {
        if (run.parameters.get(i) == null) {
          actual += dot(cotangent(run, inputs[i]), run.directions[i]);
        }
      }
      assertClose(new double[] {actual}, new double[] {expected}, DUALITY_TOLERANCE);
    }
  }

  @ParameterizedTest
  @MethodSource("cases")
  void gradientOfParametersAgreesWithDifferences(Case c) {
    try (Run run = new Run(c)) {
      if (!run.hasParameter()) {
        return;
      }
      INDArray difference = run.centralDifference(false, true);
      INDArray w = random(999, difference.shape());
      try (Tape tape = new Tape(run.store, Tape.Mode.RECORD)) {
        Dual[] inputs = run.inputs(tape, 0);
        backward(run, tape, tape.apply(c.primitive, inputs), w);
      }
      double actual = 0;
      for (int i = 0; i < run.values.length; i++) {
        Parameter parameter = run.parameters.get(i);
        if (parameter != null) {
          INDArray gradient = run.engine.read(run.store.gradient(parameter));
          actual += dot(gradient, run.directions[i]);
        }
      }
      assertClose(new double[] {actual}, new double[] {dot(w, difference)}, DIFFERENCE_TOLERANCE);
    }
  }

  @ParameterizedTest
  @MethodSource("cases")
  void cotangentsAccumulate(Case c) {
    try (Run run = new Run(c)) {
      double[] once = gradients(run, 1);
      double[] twice = gradients(run, 2);
      assertClose(twice, Arrays.stream(once).map(g -> 2 * g).toArray(), DUALITY_TOLERANCE);
    }
  }

  /** All cotangents when the primitive is applied {@code times} times to the same inputs. */
  private static double[] gradients(Run run, int times) {
    run.engine.kernels().elementwise().fill(run.store.gradients(), 0);
    try (Tape tape = new Tape(run.store, Tape.Mode.RECORD)) {
      Dual[] inputs = run.inputs(tape, 0);
      Dual y = tape.apply(run.c.primitive, inputs);
      for (int i = 1; i < times; i++) {
        y = tape.apply(LinearCombination.sum(), y, tape.apply(run.c.primitive, inputs));
      }
      backward(run, tape, y, random(999, y.shape()));
      return Stream.concat(
              Stream.of(run.engine.read(run.store.gradients())),
              Arrays.stream(inputs).map(input -> cotangent(run, input)))
          .flatMapToDouble(g -> Arrays.stream(doubles(g)))
          .toArray();
    }
  }

  /** Shapes that leave whole vectors, tiles and blocks with and without rests. */
  static Stream<Case> wideCases() {
    Stream.Builder<Case> wide = Stream.builder();
    wide.add(new Case(new Gelu(), x(3, 37, 71)));
    wide.add(new Case(new Silu(), x(3, 2048)));
    wide.add(new Case(new Softmax(), x(3, 2, 33)));
    wide.add(new Case(new LinearCombination(0.7, -1.3), x(3, 4099), x(3, 4099)));
    wide.add(new Case(new Linear(), x(3, 301, 48), p(160, 48), p(160)));
    wide.add(new Case(new Linear(), x(3, 97, 160), p(48, 160)));
    wide.add(new Case(new Linear(), x(3, 64), p(900, 64), p(900)));
    wide.add(new Case(new FeedForward(), x(3, 131, 40), p(71, 40), p(71), p(40, 71), p(40)));
    wide.add(new Case(new FeedForward(), x(3, 17, 32), p(900, 32), p(900), p(32, 900), p(32)));
    wide.add(new Case(new FeedForward(), x(3, 33, 40), p(136, 40), p(136), p(48, 136), p(48)));
    wide.add(new Case(new AddTable(), x(3, 70, 33), p(1, 70, 33)));
    for (Norm norm : List.of(Norm.rms(), Norm.layer(), Norm.none())) {
      wide.add(new Case(new Normalize(norm), x(3, 70, 40), p(40)));
      wide.add(new Case(new NormModulate(norm, 3, 1), x(3, 70, 48), x(3, 192)));
      wide.add(new Case(new Attention(2, norm), x(3, 17, 96), p(16), p(16)));
      wide.add(new Case(new Attention(2, norm), x(3, 300, 72), p(12), p(12)));
    }
    wide.add(new Case(new Attention(3, Norm.none()), x(3, 49, 288)));
    wide.add(new Case(new GatedResidual(2), x(3, 70, 48), x(3, 70, 48), x(3, 144)));
    wide.add(new Case(new TimeFeatures(20, 250), x(3)));
    wide.add(new Case(new Patchify(PatchOrder.CHANNEL_FIRST, 4), x(3, 3, 16, 12)));
    return wide.build();
  }

  static Stream<Arguments> everyCaseEveryEngine() {
    return TestEngines.with(Precision.FP32, Precision.TF32, Precision.BF16).stream()
        .flatMap(engine -> Stream.concat(cases(), wideCases()).map(c -> Arguments.of(c, engine)));
  }

  @ParameterizedTest
  @MethodSource("everyCaseEveryEngine")
  void engineAgreesWithTheReference(Case c, TestEngines.TestEngine tested) {
    // Rounding to nearest: 2^-24 in float32; 2^-9 for bfloat16 factors and results, 2^-11 for tf32;
    // times a factor for sums, exponentials and the tangents' larger terms.
    double tolerance =
        switch (tested.precision()) {
          case BF16 -> 3e-2;
          case TF32 -> 1e-2;
          default -> 2e-5;
        };
    try (Run reference = new Run(c);
        Run run = new Run(c, tested.create())) {
      for (int m : new int[] {0, 2, 3}) {
        double[] expected = everything(reference, m);
        assertClose(everything(run, m), expected, tolerance);
      }
    }
  }

  /** Value, tangent of the first m samples and all cotangents. */
  private static double[] everything(Run run, int m) {
    run.store.clearGradients();
    try (Tape tape = new Tape(run.store, Tape.Mode.RECORD)) {
      Dual[] inputs = run.inputs(tape, run.hasActivation() ? m : 0);
      Dual y = tape.apply(run.c.primitive, inputs);
      List<INDArray> all = new ArrayList<>();
      all.add(run.engine.read(y.value()));
      if (y.tangent() != null) {
        all.add(run.engine.read(y.tangent()));
      }
      try (Tensor seed = run.engine.allocate(y.value().storage(), y.shape())) {
        run.engine.write(random(999, y.shape()), seed);
        tape.backward(y, seed);
      }
      for (Dual input : inputs) {
        all.add(cotangent(run, input));
      }
      return all.stream().flatMapToDouble(a -> Arrays.stream(doubles(a))).toArray();
    }
  }

  @Test
  void wrongShapesAreRefusedWithTheLayer() {
    try (Run run = new Run(new Case(new Linear(), x(3, 5), p(2, 4)));
        Tape tape = new Tape(run.store, Tape.Mode.EVALUATE)) {
      assertThatThrownBy(
              () -> tape.scope("head", () -> tape.apply(new Linear(), run.inputs(tape, 0))))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessageContaining("head")
          .hasMessageContaining("[3, 5]")
          .hasMessageContaining("[2, 4]");
    }
  }

  private static void backward(Run run, Tape tape, Dual y, INDArray w) {
    try (Tensor seed = run.engine.copyOf(w)) {
      tape.backward(y, seed);
    }
  }

  private static INDArray cotangent(Run run, Dual input) {
    return run.engine.read(Objects.requireNonNull(input.cotangent()));
  }

  private static INDArray random(int seed, long... shape) {
    return new RandomStream(7, seed, Purpose.NOISE).normalArray(DataType.DOUBLE, shape);
  }

  private static double dot(INDArray a, INDArray b) {
    double[] x = doubles(a);
    double[] y = doubles(b);
    assertThat(x).hasSameSizeAs(y);
    double sum = 0;
    for (int i = 0; i < x.length; i++) {
      sum += x[i] * y[i];
    }
    return sum;
  }

  private static double[] firstRows(INDArray array, long rows) {
    double[] all = doubles(array);
    return Arrays.copyOf(all, Math.toIntExact(all.length / array.size(0) * rows));
  }

  private static double[] doubles(INDArray array) {
    return Nd4j.toFlattened('c', array).toDoubleVector();
  }

  /** |a − e| ≤ tolerance·(1 + max|e|) everywhere; fails on NaN. */
  private static void assertClose(double[] actual, double[] expected, double tolerance) {
    assertThat(actual).hasSameSizeAs(expected);
    double scale = 1 + Arrays.stream(expected).map(Math::abs).max().orElse(0);
    for (int i = 0; i < actual.length; i++) {
      if (!(Math.abs(actual[i] - expected[i]) <= tolerance * scale)) {
        throw new AssertionError(
            "at %d: expected %s, got %s (tolerance %s)"
                .formatted(i, expected[i], actual[i], tolerance * scale));
      }
    }
  }
}
