package org.meanflow.nn.primitive;

import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.autodiff.Primitive;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;

/**
 * Multi-head self-attention, softmax(q kᵀ / √d) v for each head, optionally with normalised q and
 * k.
 *
 * <p>Inputs: qkv {@code [batch, tokens, 3·width]} with columns ordered (q|k|v, head, d), and either
 * none or both of the gains of q and k {@code [d]}. Result: {@code [batch, tokens, width]}.
 *
 * @param heads number of heads; divides the width
 * @param qkNorm normalisation of q and k over d; {@link Norm#none()} for none
 */
public record Attention(int heads, Norm qkNorm) implements Primitive {

  /** Checks the number of heads. */
  public Attention {
    if (heads < 1) {
      throw new IllegalArgumentException("heads must be >= 1, got " + heads);
    }
  }

  @Override
  public long[] shape(List<long[]> inputs) {
    long[] qkv = inputs.get(0);
    boolean fits = qkv.length == 3 && qkv[2] % (3L * heads) == 0 && inputs.size() != 2;
    long d = qkv[qkv.length - 1] / (3L * heads);
    for (long[] gain : inputs.subList(1, inputs.size())) {
      fits &= Tensor.size(gain) == d;
    }
    Shapes.check(
        fits,
        "attention of %d heads needs qkv [batch, tokens, 3*heads*d] and gains [d]".formatted(heads),
        inputs);
    return Shapes.withLast(qkv, qkv[2] / 3);
  }

  @Override
  public Saved forward(Kernels k, Tensor[] x, Tensor out, boolean keep) {
    return k.attention().attention(heads, qkNorm, x[0], input(x, 1), input(x, 2), out, keep);
  }

  @Override
  public void jvp(Kernels k, Evaluation e, @Nullable Tensor[] dx, Tensor dOut) {
    Tensor[] x = e.x();
    Tensor dQkv = Objects.requireNonNull(dx[0]);
    k.attention()
        .attentionTangent(heads, qkNorm, x[0], input(x, 1), input(x, 2), e.saved(), dQkv, dOut);
  }

  @Override
  public void vjp(Kernels k, Evaluation e, Tensor gOut, @Nullable Cotangent[] gx) {
    Tensor[] x = e.x();
    boolean gains = gx.length > 1;
    k.attention()
        .attentionBackward(
            heads,
            qkNorm,
            x[0],
            input(x, 1),
            input(x, 2),
            e.saved(),
            gOut,
            gx[0],
            gains ? gx[1] : null,
            gains ? gx[2] : null);
  }

  private static @Nullable Tensor input(Tensor[] x, int i) {
    return x.length > i ? x[i] : null;
  }

  @Override
  public Storage storage() {
    return Storage.COMPACT;
  }
}
