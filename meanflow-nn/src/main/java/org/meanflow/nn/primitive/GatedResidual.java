package org.meanflow.nn.primitive;

import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.autodiff.Primitive;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Tensor;

/**
 * Residual connection with a gate for each sample and channel, out = x + gate ⊙ y.
 *
 * <p>Inputs: x and y {@code [batch, tokens, width]}, modulation {@code [batch, k·width]}, of which
 * this reads one chunk of {@code width} columns. Result: the shape of x.
 *
 * @param gate index of the chunk that is the gate
 */
public record GatedResidual(int gate) implements Primitive {
  @Override
  public long[] shape(List<long[]> inputs) {
    long[] x = inputs.get(0);
    long[] m = inputs.get(2);
    Shapes.check(
        x.length == 3
            && Arrays.equals(x, inputs.get(1))
            && m.length == 2
            && m[0] == x[0]
            && m[1] % x[2] == 0
            && gate < m[1] / x[2],
        "gated residual needs x and y [batch, tokens, width], modulation [batch, k*width]",
        inputs);
    return x;
  }

  @Override
  public Saved forward(Kernels k, Tensor[] x, Tensor out, boolean keep) {
    k.modulation().gatedResidual(x[0], x[1], x[2], gate, out);
    return Saved.NOTHING;
  }

  @Override
  public void jvp(Kernels k, Evaluation e, @Nullable Tensor[] dx, Tensor dOut) {
    k.modulation().gatedResidualTangent(e.x()[1], e.x()[2], gate, dx[0], dx[1], dx[2], dOut);
  }

  @Override
  public void vjp(Kernels k, Evaluation e, Tensor gOut, @Nullable Cotangent[] gx) {
    k.modulation().gatedResidualBackward(e.x()[1], e.x()[2], gate, gOut, gx[0], gx[1], gx[2]);
  }

  @Override
  public boolean writesPart(int i) {
    return i == 2;
  }

  @Override
  public boolean passesCotangent(int i) {
    return i == 0;
  }
}
