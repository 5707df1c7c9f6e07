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
 * z = αx + βy of two activations of the same shape.
 *
 * @param alpha factor of the first input
 * @param beta factor of the second input
 */
public record LinearCombination(double alpha, double beta) implements Primitive {

  /** {@return z = x + y} */
  public static LinearCombination sum() {
    return new LinearCombination(1, 1);
  }

  /** {@return z = x − y} */
  public static LinearCombination difference() {
    return new LinearCombination(1, -1);
  }

  @Override
  public long[] shape(List<long[]> inputs) {
    Shapes.check(
        Arrays.equals(inputs.get(0), inputs.get(1)), "terms must have the same shape", inputs);
    return inputs.getFirst();
  }

  @Override
  public Saved forward(Kernels k, Tensor[] x, Tensor y, boolean keep) {
    k.elementwise().combine(alpha, x[0], beta, x[1], y);
    return Saved.NOTHING;
  }

  @Override
  public void jvp(Kernels k, Evaluation e, @Nullable Tensor[] dx, Tensor dy) {
    Tensor first = dx[0];
    Tensor second = dx[1];
    if (first != null && second != null) {
      k.elementwise().combine(alpha, first, beta, second, dy);
    } else if (first != null) {
      k.elementwise().scale(alpha, first, dy, false);
    } else if (second != null) {
      k.elementwise().scale(beta, second, dy, false);
    }
  }

  @Override
  public void vjp(Kernels k, Evaluation e, Tensor gy, @Nullable Cotangent[] gx) {
    double[] factors = {alpha, beta};
    for (int i = 0; i < factors.length; i++) {
      Cotangent g = gx[i];
      if (g != null) {
        k.elementwise().scale(factors[i], gy, g.target(), g.add());
      }
    }
  }
}
