package org.meanflow.nn.parity;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.Arrays;
import org.jspecify.annotations.Nullable;
import org.meanflow.core.field.AverageVelocity;
import org.meanflow.core.objective.AdaptiveLoss;
import org.meanflow.core.objective.Reduction;
import org.meanflow.nn.NetworkField;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.dit.DiT;
import org.meanflow.nn.dit.DiTConfig;
import org.meanflow.nn.dit.TimeConditioning;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.fixtures.Fixture;
import org.meanflow.nn.layer.PositionTable;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;

/** A network with the architecture and the parameters of a reference case, on an engine. */
public final class DiTFixture implements AutoCloseable {
  private final Fixture fixture;
  private final Engine engine;
  private final ParameterStore parameters;
  private final NetworkField field;
  private final int classes;

  /**
   * @param fixture the case with configuration and inputs
   * @param weights the case with the parameters, often the same
   */
  public DiTFixture(Fixture fixture, Fixture weights, String engineName, Precision precision) {
    this.fixture = fixture;
    JsonNode config = fixture.json().get("config");
    this.classes = config.get("num_classes").intValue();
    DiT network = new DiT(config(config));
    this.engine = Engines.create(engineName, precision);
    this.parameters = new ParameterStore(engine, network.parameters());
    assertThat(network.parameters().parameters())
        .extracting(parameter -> "param." + parameter.name())
        .containsExactlyInAnyOrderElementsOf(weights.names("param."));
    for (Parameter parameter : network.parameters().parameters()) {
      String name = "param." + parameter.name();
      assertThat(parameter.shape()).as(name).isEqualTo(weights.shape(name));
      parameters.write(parameter, weights.array(name, precision.dataType()));
    }
    this.field = new NetworkField(network, parameters);
  }

  private static DiTConfig config(JsonNode config) {
    Norm.Kind kind =
        switch (config.get("norm").textValue()) {
          case "rms" -> Norm.Kind.RMS;
          case "layer" -> Norm.Kind.LAYER;
          default -> throw new AssertionError("unknown norm " + config.get("norm"));
        };
    String times = config.get("time_embedders").toString();
    return new DiTConfig(
        config.get("in_channels").intValue(),
        config.get("input_size").intValue(),
        config.get("patch_size").intValue(),
        config.get("dim").intValue(),
        config.get("depth").intValue(),
        config.get("num_heads").intValue(),
        config.get("mlp_ratio").doubleValue(),
        config.get("num_classes").intValue(),
        new Norm(kind, config.get("norm_eps").doubleValue()),
        config.get("qk_norm").booleanValue()
            ? new Norm(Norm.Kind.RMS, config.get("qk_norm_eps").doubleValue())
            : Norm.none(),
        config.get("time_scale").doubleValue(),
        switch (times) {
          case "[\"t_embedder\",\"r_embedder\"]" -> TimeConditioning.T_R;
          case "[\"t_embedder\",\"h_embedder\"]" -> TimeConditioning.T_H;
          case "[\"h_embedder\"]" -> TimeConditioning.H;
          default -> throw new AssertionError("unknown time embedders " + times);
        },
        switch (config.get("pos_embed").textValue()) {
          case "parameter" -> PositionTable.LEARNED;
          case "fixed-sincos" -> PositionTable.FIXED;
          default -> throw new AssertionError("unknown table " + config.get("pos_embed"));
        },
        config.get("nfreq").intValue());
  }

  /** The loss that the case describes. */
  public AdaptiveLoss loss() {
    JsonNode loss = fixture.json().get("config").get("loss");
    return new AdaptiveLoss(
        loss.get("p").doubleValue(),
        loss.get("c").doubleValue(),
        switch (loss.get("reduce").textValue()) {
          case "mean" -> Reduction.MEAN;
          case "sum" -> Reduction.SUM;
          default -> throw new AssertionError("unknown reduction " + loss.get("reduce"));
        });
  }

  /** The network as a field. */
  public NetworkField field() {
    return field;
  }

  /** An input in the precision of the engine. */
  public INDArray array(String tensor) {
    DataType type = engine.precision().dataType();
    return fixture.array(tensor, type);
  }

  /** Labels, the null class as {@link AverageVelocity#NO_LABEL}; null for a network without. */
  public int @Nullable [] labels(String tensor) {
    if (classes == 0) {
      return null;
    }
    return Arrays.stream(fixture.integers(tensor))
        .map(label -> label == classes ? AverageVelocity.NO_LABEL : label)
        .toArray();
  }

  /** Compares an output with the reference within the case's own tolerance. */
  public void assertClose(String tensor, INDArray actual) {
    fixture.assertClose(tensor, actual, tolerance(tensor));
  }

  /** Compares an output with the reference within the case's own tolerance. */
  public void assertClose(String tensor, double... actual) {
    fixture.assertClose(tensor, actual, tolerance(tensor));
  }

  /** Compares the gradients of all parameters. */
  public void assertGradientsClose() {
    assertThat(parameters.layout().parameters())
        .extracting(parameter -> "grad." + parameter.name())
        .containsExactlyInAnyOrderElementsOf(fixture.names("grad."));
    double norm = Math.sqrt(parameters.squaredGradientNorm());
    double squares = 0;
    for (String name : fixture.names("grad.")) {
      for (double g : fixture.values(name)) {
        squares += g * g;
      }
    }
    assertThat(Math.abs(norm / Math.sqrt(squares) - 1) <= tolerance("grad.norm"))
        .as("gradient norm %s, should be %s", norm, Math.sqrt(squares))
        .isTrue();
    for (Parameter parameter : parameters.layout().parameters()) {
      assertClose("grad." + parameter.name(), engine.read(parameters.gradient(parameter)));
    }
  }

  private double tolerance(String tensor) {
    return fixture.tolerance(tensor, engine.precision() == Precision.FP64);
  }

  @Override
  public void close() {
    parameters.close();
    engine.close();
  }
}
