package org.meanflow.nn.parity;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.meanflow.nn.TestEngines;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Engines;
import org.meanflow.nn.engine.OptimizerKernels;
import org.meanflow.nn.engine.OptimizerKernels.AdamWUpdate;
import org.meanflow.nn.engine.OptimizerKernels.Average;
import org.meanflow.nn.engine.Precision;
import org.meanflow.nn.engine.Tensor;
import org.meanflow.nn.fixtures.Fixture;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/** Steps of AdamW with clipping and moving averages against {@code torch.optim.AdamW}. */
class AdamWParityTest {
  /** In float32; the cases give it in words, absolute for parameters, relative for moments. */
  private static final double FP32_TOLERANCE = 1e-6;

  static Stream<Arguments> cases() {
    return Fixture.variants("adamw-ema").stream()
        .flatMap(
            fixture ->
                TestEngines.all().stream()
                    .map(engine -> Arguments.of(fixture, engine.name(), engine.precision())));
  }

  @ParameterizedTest
  @MethodSource("cases")
  void stepsMatch(Fixture fixture, String engineName, Precision precision) {
    JsonNode config = fixture.json().get("config");
    double decay = config.get("ema_decay").doubleValue();
    double[] rates = fixture.values("out.lr");
    Map<String, double[]> states = new LinkedHashMap<>();
    try (Engine engine = Engines.create(engineName, precision)) {
      OptimizerKernels kernels = engine.kernels().optimizer();
      INDArray gradients = fixture.array("in.grads", precision.dataType());
      INDArray start = fixture.array("in.params0", precision.dataType());
      try (Tensor p = engine.copyOf(start);
          Tensor m = engine.copyOf(start.mul(0));
          Tensor v = engine.copyOf(start.mul(0));
          Tensor average = engine.copyOf(start);
          Tensor periodic = engine.copyOf(start)) {
        for (int k = 0; k < rates.length; k++) {
          int step = k + 1;
          try (Tensor g = engine.copyOf(gradients.getRow(k))) {
            double norm = Math.sqrt(kernels.squaredNorm(g));
            Average[] averages = {
              new Average(decay, average), new Average(decay * decay, periodic)
            };
            kernels.adamW(
                update(config, rates[k], step, norm),
                p,
                g,
                m,
                v,
                Arrays.copyOf(averages, step % 2 == 0 ? 2 : 1));
            add(states, "out.grad_norm", norm);
          }
          add(states, "out.params", doubles(engine.read(p)));
          add(states, "out.exp_avg", doubles(engine.read(m)));
          add(states, "out.exp_avg_sq", doubles(engine.read(v)));
          add(states, "out.ema", doubles(engine.read(average)));
          add(states, "out.ema_period2", doubles(engine.read(periodic)));
        }
      }
    }
    states.forEach(
        (output, actual) ->
            fixture.assertClose(output, actual, tolerance(fixture, output, precision)));
  }

  private static AdamWUpdate update(JsonNode config, double rate, int step, double norm) {
    JsonNode clip = config.get("clip_norm");
    return new AdamWUpdate(
        rate,
        config.get("betas").get(0).doubleValue(),
        config.get("betas").get(1).doubleValue(),
        config.get("eps").doubleValue(),
        config.get("weight_decay").doubleValue(),
        step,
        clip.isNull() ? 1 : Math.min(1, clip.doubleValue() / (norm + 1e-6)));
  }

  private static double tolerance(Fixture fixture, String output, Precision precision) {
    if (precision == Precision.FP64) {
      return fixture.tolerance(output, true);
    }
    boolean absolute = output.matches("out\\.(params|ema.*)");
    double scale = Arrays.stream(fixture.values(output)).map(Math::abs).max().orElseThrow();
    return absolute ? FP32_TOLERANCE / scale : FP32_TOLERANCE;
  }

  private static void add(Map<String, double[]> states, String output, double... state) {
    double[] before = states.getOrDefault(output, new double[0]);
    double[] both = Arrays.copyOf(before, before.length + state.length);
    System.arraycopy(state, 0, both, before.length, state.length);
    states.put(output, both);
  }

  private static double[] doubles(INDArray array) {
    return Nd4j.toFlattened('c', array).toDoubleVector();
  }
}
