package org.meanflow.nn;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;
import org.meanflow.core.field.Derivative;
import org.meanflow.core.field.Tangent;
import org.meanflow.core.field.TrainableVelocity;
import org.meanflow.nn.autodiff.Dual;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterStore;
import org.meanflow.nn.autodiff.Tape;
import org.meanflow.nn.engine.Engine;
import org.meanflow.nn.engine.Tensor;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/**
 * A network with its parameters, as a field. Arrays are copied to the engine and back; what comes
 * back has the data type of the engine's precision.
 */
public final class NetworkField implements TrainableVelocity {
  private final VelocityNetwork network;
  private final ParameterStore parameters;
  private final Engine engine;

  /**
   * The field u_θ.
   *
   * @param network the structure
   * @param parameters θ, made from the layout of {@code network}; they stay the caller's to close
   */
  public NetworkField(VelocityNetwork network, ParameterStore parameters) {
    this.network = network;
    this.parameters = parameters;
    this.engine = parameters.engine();
  }

  @Override
  public INDArray u(INDArray z, double[] r, double[] t, int @Nullable [] labels) {
    try (Evaluation evaluation = new Evaluation(Tape.Mode.EVALUATE, z, r, t, labels, null)) {
      return evaluation.u();
    }
  }

  @Override
  public Derivative derivative(
      INDArray z, double[] r, double[] t, int @Nullable [] labels, Tangent tangent) {
    try (Evaluation evaluation = new Evaluation(Tape.Mode.EVALUATE, z, r, t, labels, tangent)) {
      return new Derivative(evaluation.u(), evaluation.jvp());
    }
  }

  /** {@inheritDoc} The gradients are those of {@link ParameterStore#gradients}. */
  @Override
  public Pass pass(INDArray z, double[] r, double[] t, int @Nullable [] labels, Tangent tangent) {
    return new Evaluation(Tape.Mode.RECORD, z, r, t, labels, tangent);
  }

  private final class Evaluation implements Pass {
    private final Tape tape;
    private final Dual output;
    private final INDArray u;
    private final INDArray jvp;
    private boolean backwardDone;

    Evaluation(
        Tape.Mode mode,
        INDArray z,
        double[] r,
        double[] t,
        int @Nullable [] labels,
        @Nullable Tangent tangent) {
      check(z, r, t, labels, tangent);
      tape = new Tape(parameters, mode);
      try {
        Dual zDual = input(z, tangent == null ? null : tangent.z());
        Dual rDual = input(array(r), tangent == null ? null : filled(tangent, tangent.r()));
        Dual tDual = input(array(t), tangent == null ? null : filled(tangent, tangent.t()));
        output = network.forward(tape, zDual, rDual, tDual, labels);
        u = engine.read(output.value());
        jvp = tangent == null ? u : readTangent(tangent);
      } catch (RuntimeException | Error e) {
        tape.close();
        throw e;
      }
    }

    @Override
    public INDArray u() {
      return u;
    }

    @Override
    public INDArray jvp() {
      return jvp;
    }

    @Override
    public void backward(INDArray cotangent) {
      try (Tensor seed = engine.copyOf(cotangent)) {
        tape.backward(output, seed);
      }
      backwardDone = true;
    }

    @Override
    public @Nullable String firstNonFinite() {
      if (!backwardDone) {
        return tape.firstNonFinite();
      }
      for (Parameter parameter : parameters.layout().parameters().reversed()) {
        if (!Double.isFinite(
            engine.kernels().optimizer().squaredNorm(parameters.gradient(parameter)))) {
          return parameter.name();
        }
      }
      return null;
    }

    @Override
    public void close() {
      tape.close();
    }

    private Dual input(INDArray value, @Nullable INDArray tangent) {
      long batch = value.size(0);
      long[] shape = value.shape().clone();
      shape[0] = batch + (tangent == null ? 0 : tangent.size(0));
      Tensor stacked = tape.allocate(shape);
      engine.write(value, stacked.rows(0, batch));
      if (tangent != null && tangent.size(0) > 0) {
        engine.write(tangent, stacked.rows(batch, shape[0]));
      }
      return tape.input(stacked, batch, false);
    }

    private INDArray readTangent(Tangent tangent) {
      Tensor result = output.tangent();
      long[] shape = output.shape().clone();
      shape[0] = tangent.rows();
      return result != null ? engine.read(result) : Nd4j.zeros(u.dataType(), shape);
    }
  }

  /** In the type that the engine takes: to convert an array costs more than to write it. */
  private INDArray array(double[] times) {
    if (engine.precision().dataType() != DataType.FLOAT) {
      return Nd4j.createFromArray(times);
    }
    float[] rounded = new float[times.length];
    for (int i = 0; i < rounded.length; i++) {
      rounded[i] = (float) times[i];
    }
    return Nd4j.createFromArray(rounded);
  }

  private @Nullable INDArray filled(Tangent tangent, double value) {
    double[] values = new double[tangent.rows()];
    Arrays.fill(values, value);
    return values.length == 0 ? null : array(values);
  }

  static void check(
      INDArray z, double[] r, double[] t, int @Nullable [] labels, @Nullable Tangent tangent) {
    long batch = z.size(0);
    if (r.length != batch || t.length != batch || (labels != null && labels.length != batch)) {
      throw new IllegalArgumentException(
          "r, t and labels must have one entry for each of the %d samples, got %d, %d, %s"
              .formatted(batch, r.length, t.length, labels == null ? "none" : labels.length));
    }
    for (int i = 0; i < batch; i++) {
      if (!(0 <= r[i] && r[i] <= t[i] && t[i] <= 1)) {
        throw new IllegalArgumentException(
            "times must satisfy 0 <= r <= t <= 1, got r = %s, t = %s in sample %d"
                .formatted(r[i], t[i], i));
      }
    }
    if (tangent != null) {
      long[] expected = z.shape().clone();
      expected[0] = tangent.rows();
      if (tangent.rows() > batch || !Arrays.equals(expected, tangent.z().shape())) {
        throw new IllegalArgumentException(
            "tangent must have the shape of at most the %d rows of z %s, got %s"
                .formatted(
                    batch, Arrays.toString(z.shape()), Arrays.toString(tangent.z().shape())));
      }
    }
  }
}
