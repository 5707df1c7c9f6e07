package org.meanflow.nn.layer;

import org.jspecify.annotations.Nullable;
import org.meanflow.nn.autodiff.Dual;
import org.meanflow.nn.autodiff.Initializer;
import org.meanflow.nn.autodiff.Parameter;
import org.meanflow.nn.autodiff.ParameterLayout;
import org.meanflow.nn.autodiff.Tape;
import org.meanflow.nn.engine.Norm;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.primitive.Attention;

/**
 * Multi-head self-attention with its projections: {@code NAME.qkv}, {@code NAME.proj} and, with q/k
 * norm, {@code NAME.q_norm.weight} and {@code NAME.k_norm.weight}.
 */
public final class SelfAttention {
  private final String name;
  private final Attention attention;
  private final LinearLayer qkv;
  private final @Nullable Parameter qGain;
  private final @Nullable Parameter kGain;
  private final LinearLayer projection;

  /**
   * Declares the parameters.
   *
   * @param layout where the parameters are declared
   * @param name prefix of their names
   * @param width channels of a token; a multiple of {@code heads}
   * @param heads number of heads
   * @param qkNorm normalisation of q and k, with gains; {@link Norm#none()} for plain attention
   */
  public SelfAttention(ParameterLayout layout, String name, int width, int heads, Norm qkNorm) {
    this.name = name;
    this.attention = new Attention(heads, qkNorm);
    Initializer xavier = Initializer.xavierUniform();
    this.qkv = new LinearLayer(Storage.COMPACT, layout, name + ".qkv", xavier, 3L * width, width);
    boolean gains = qkNorm.kind() != Norm.Kind.NONE;
    Initializer one = Initializer.constant(1);
    this.qGain = gains ? layout.declare(name + ".q_norm.weight", one, width / heads) : null;
    this.kGain = gains ? layout.declare(name + ".k_norm.weight", one, width / heads) : null;
    this.projection =
        new LinearLayer(Storage.COMPACT, layout, name + ".proj", xavier, width, width);
  }

  /**
   * Applies the layer.
   *
   * @param tape computes, and holds the parameters
   * @param x {@code [batch, tokens, width]}
   * @return the shape of {@code x}
   */
  public Dual forward(Tape tape, Dual x) {
    return tape.scope(
        name,
        () -> {
          Dual joint = qkv.forward(tape, x);
          Dual mixed =
              qGain != null && kGain != null
                  ? tape.apply(attention, joint, tape.parameter(qGain), tape.parameter(kGain))
                  : tape.apply(attention, joint);
          return projection.forward(tape, mixed);
        });
  }
}
