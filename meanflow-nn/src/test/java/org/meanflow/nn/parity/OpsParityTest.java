package org.meanflow.nn.parity;

import static java.util.Map.entry;
import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.abort;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.function.Function;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
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
import org.meanflow.nn.fixtures.Fixture;
import org.meanflow.nn.primitive.Attention;
import org.meanflow.nn.primitive.Gelu;
import org.meanflow.nn.primitive.Linear;
import org.meanflow.nn.primitive.NormModulate;
import org.meanflow.nn.primitive.Normalize;
import org.meanflow.nn.primitive.Patchify;
import org.meanflow.nn.primitive.Silu;
import org.meanflow.nn.primitive.Softmax;
import org.meanflow.nn.primitive.TimeFeatures;
import org.meanflow.nn.primitive.Unpatchify;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/** Single operations, with tangents and all cotangents, against PyTorch in float64. */
class OpsParityTest {

  /** How the operations of the reference are written with primitives. */
  private static final Map<String, Function<Run, Dual>> OPS =
      Map.ofEntries(
          entry("silu", run -> run.apply(new Silu(), run.activation("x"))),
          entry("gelu_tanh", run -> run.apply(new Gelu(), run.activation("x"))),
          entry("softmax_last", run -> run.apply(new Softmax(), run.activation("x"))),
          entry(
              "rmsnorm_f32eps",
              run ->
                  run.apply(new Normalize(Norm.rms()), run.activation("x"), run.parameter("gain"))),
          entry(
              "rmsnorm_1e-6",
              run ->
                  run.apply(
                      new Normalize(new Norm(Norm.Kind.RMS, 1e-6)),
                      run.activation("x"),
                      run.parameter("gain"))),
          entry(
              "layernorm_1e-6", run -> run.apply(new Normalize(Norm.layer()), run.activation("x"))),
          entry(
              "modulate",
              run ->
                  run.apply(
                      new NormModulate(Norm.none(), 0, 1),
                      run.activation("x"),
                      run.activation("shift", "scale"))),
          entry("linear", run -> run.linear(run.activation("x"), "weight", "bias")),
          entry("patch_embed", OpsParityTest::patchEmbed),
          entry("unpatchify", OpsParityTest::unpatchify),
          entry("timestep_features_scale1", run -> timeFeatures(run, 1)),
          entry("timestep_features_scale1000", run -> timeFeatures(run, 1000)),
          entry(
              "attention_qknorm",
              run -> attention(run, Norm.rms(), run.parameter("qg"), run.parameter("kg"))),
          entry("attention_plain", run -> attention(run, Norm.none())));

  /** Operations of the reference that are not a primitive of this library yet. */
  private static final Set<String> NOT_YET =
      Set.of(
          "l2norm_scaled",
          "groupnorm_1e-6",
          "unet_positional",
          "rope",
          "conv3x3",
          "down_1331",
          "up_1331",
          "down_11",
          "up_11",
          "sdpa_single_head_nchw");

  private static Dual patchEmbed(Run run) {
    int patch = Math.toIntExact(run.shape("weight")[2]);
    Dual patches = run.apply(new Patchify(PatchOrder.CHANNEL_FIRST, patch), run.activation("x"));
    return run.linear(patches, "weight", "bias");
  }

  private static Dual unpatchify(Run run) {
    long[] image = run.fixture.shape("in." + run.op + ".cotangent");
    int channels = Math.toIntExact(image[1]);
    int patch = (int) Math.sqrt((double) run.shape("x")[2] / channels);
    return run.apply(
        new Unpatchify(PatchOrder.CHANNEL_LAST, patch, channels, (int) image[2], (int) image[3]),
        run.activation("x"));
  }

  private static Dual timeFeatures(Run run, double scale) {
    int count = Math.toIntExact(run.fixture.shape("in." + run.op + ".cotangent")[1]);
    return run.apply(new TimeFeatures(scale, count), run.activation("t"));
  }

  private static Dual attention(Run run, Norm qkNorm, Dual... gains) {
    Matcher heads = Pattern.compile("([0-9]+) heads").matcher(run.definition());
    assertThat(heads.find()).as(run.definition()).isTrue();
    List<Dual> inputs = new ArrayList<>(List.of(gains));
    inputs.addFirst(run.linear(run.activation("x"), "qkv_w", "qkv_b"));
    Dual mixed =
        run.apply(
            new Attention(Integer.parseInt(heads.group(1)), qkNorm), inputs.toArray(new Dual[0]));
    return run.linear(mixed, "pw", "pb");
  }

  static Stream<Arguments> ops() {
    List<Arguments> ops = new ArrayList<>();
    for (Fixture fixture : Fixture.variants("ops")) {
      for (String op : (Iterable<String>) fixture.json().get("ops")::fieldNames) {
        for (TestEngines.TestEngine engine : TestEngines.all()) {
          ops.add(Arguments.of(op, fixture, engine.name(), engine.precision()));
        }
      }
    }
    return ops.stream();
  }

  @Test
  void anOperationIsEitherThereOrNotYet() {
    assertThat(Collections.disjoint(OPS.keySet(), NOT_YET)).isTrue();
    for (Fixture fixture : Fixture.variants("ops")) {
      assertThat(fixture.json().get("ops").fieldNames())
          .toIterable()
          .as("operations of %s", fixture)
          .allMatch(op -> OPS.containsKey(op) || NOT_YET.contains(op))
          .anyMatch(OPS::containsKey);
    }
  }

  @ParameterizedTest(name = "{0} {2} {3}")
  @MethodSource("ops")
  void valueTangentAndCotangentsMatch(
      String op, Fixture fixture, String engine, Precision precision) {
    if (NOT_YET.contains(op)) {
      abort(op + " is not a primitive of this library yet");
    }
    Function<Run, Dual> forward = OPS.get(op);
    assertThat(forward).as("how to compute %s", op).isNotNull();
    try (Run run = new Run(fixture, op, engine, precision)) {
      Dual y = forward.apply(run);
      run.assertClose("y", run.engine.read(y.value()));
      String jvp = fixture.has("out." + op + ".jvp_act") ? "jvp_act" : "jvp";
      run.assertClose(jvp, run.engine.read(Objects.requireNonNull(y.tangent())));
      try (Tensor cotangent = run.engine.copyOf(run.array("cotangent"))) {
        run.tape.backward(y, cotangent);
      }
      Map<String, INDArray> cotangents = run.cotangents();
      assertThat(cotangents.keySet())
          .as("inputs used")
          .containsExactlyInAnyOrderElementsOf(run.inputs());
      cotangents.forEach((input, cotangent) -> run.assertClose("vjp." + input, cotangent));
    }
  }

  /** One operation of a case, on an engine. */
  private static final class Run implements AutoCloseable {
    final Fixture fixture;
    final String op;
    final Engine engine;
    final ParameterStore store;
    final Tape tape;
    private final Map<String, Parameter> declared = new LinkedHashMap<>();
    private final Map<List<String>, Dual> activations = new LinkedHashMap<>();
    private final List<String> parameters = new ArrayList<>();

    Run(Fixture fixture, String op, String engineName, Precision precision) {
      this.fixture = fixture;
      this.op = op;
      ParameterLayout layout = new ParameterLayout();
      for (String input : inputs()) {
        declared.put(input, layout.declare(input, Initializer.zeros(), shape(input)));
      }
      engine = Engines.create(engineName, precision);
      store = new ParameterStore(engine, layout);
      tape = new Tape(store, Tape.Mode.RECORD);
    }

    List<String> inputs() {
      List<String> names = new ArrayList<>();
      description().get("inputs").fieldNames().forEachRemaining(names::add);
      return names;
    }

    String definition() {
      return description().get("definition").textValue();
    }

    private JsonNode description() {
      return fixture.json().get("ops").get(op);
    }

    long[] shape(String input) {
      return fixture.shape("in." + op + "." + input);
    }

    INDArray array(String name) {
      return fixture.array("in." + op + "." + name, engine.precision().dataType());
    }

    Dual apply(Primitive primitive, Dual... inputs) {
      return tape.apply(primitive, inputs);
    }

    Dual linear(Dual x, String weight, String bias) {
      return tape.apply(new Linear(), x, parameter(weight), parameter(bias));
    }

    Dual parameter(String name) {
      parameters.add(name);
      store.write(declared.get(name), array(name));
      return tape.parameter(declared.get(name));
    }

    /** Inputs side by side as one activation, with their tangents. */
    Dual activation(String... names) {
      INDArray value = beside(Stream.of(names).map(this::array));
      INDArray tangent = beside(Stream.of(names).map(name -> array("tangent." + name)));
      long batch = value.size(0);
      long[] shape = value.shape().clone();
      shape[0] = 2 * batch;
      Tensor stacked = tape.allocate(shape);
      engine.write(value, stacked.rows(0, batch));
      engine.write(tangent, stacked.rows(batch, 2 * batch));
      Dual dual = tape.input(stacked, batch, true);
      activations.put(List.of(names), dual);
      return dual;
    }

    private static INDArray beside(Stream<INDArray> parts) {
      INDArray[] arrays = parts.toArray(INDArray[]::new);
      return arrays.length == 1 ? arrays[0] : Nd4j.concat(1, arrays);
    }

    /** By name of the input. */
    Map<String, INDArray> cotangents() {
      Map<String, INDArray> cotangents = new LinkedHashMap<>();
      activations.forEach(
          (names, dual) -> {
            INDArray joint = engine.read(Objects.requireNonNull(dual.cotangent()));
            int column = 0;
            for (String name : names) {
              if (names.size() == 1) {
                cotangents.put(name, joint);
              } else {
                int width = Math.toIntExact(shape(name)[1]);
                int[] columns = IntStream.range(column, column + width).toArray();
                cotangents.put(name, joint.getColumns(columns));
                column += width;
              }
            }
          });
      for (String name : parameters) {
        cotangents.put(name, engine.read(store.gradient(declared.get(name))));
      }
      return cotangents;
    }

    /** Row by row where rows have magnitudes of their own: the norms. */
    void assertClose(String output, INDArray actual) {
      String tensor = "out." + op + "." + output;
      assertThat(actual.shape()).as(tensor).isEqualTo(fixture.shape(tensor));
      double[] values = Nd4j.toFlattened('c', actual).toDoubleVector();
      if (op.matches("(rms|layer)norm.*") && actual.rank() > 1) {
        fixture.assertRowsClose(tensor, values, tolerance());
      } else {
        fixture.assertClose(tensor, values, tolerance());
      }
    }

    /** The case gives a number, or a text of one number and exceptions: "2e-6, op 1e-4, …". */
    private double tolerance() {
      if (engine.precision() == Precision.FP64) {
        return fixture.tolerance("out." + op + ".y", true);
      }
      String text = fixture.json().at("/tolerances/float32_implementation").asText();
      String[] entries = text.split(", *");
      return Arrays.stream(entries)
          .filter(entry -> entry.startsWith(op + " "))
          .findFirst()
          .map(entry -> Double.parseDouble(entry.substring(op.length() + 1)))
          .orElseGet(() -> Double.parseDouble(entries[0]));
    }

    @Override
    public void close() {
      tape.close();
      store.close();
      engine.close();
    }
  }
}
