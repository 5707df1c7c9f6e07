package org.meanflow.nn.dit;

import org.meanflow.nn.autodiff.Dual;
import org.meanflow.nn.autodiff.Initializer;
import org.meanflow.nn.autodiff.ParameterLayout;
import org.meanflow.nn.autodiff.Tape;
import org.meanflow.nn.layer.LinearLayer;
import org.meanflow.nn.layer.Mlp;
import org.meanflow.nn.layer.SelfAttention;
import org.meanflow.nn.primitive.GatedResidual;
import org.meanflow.nn.primitive.NormModulate;

/**
 * A transformer block with adaLN-zero: attention and MLP, each behind a normalisation with shift
 * and scale from the conditioning, and added through a gate that starts at zero.
 */
final class DiTBlock {
  private static final int SHIFT_ATTENTION = 0;
  private static final int SCALE_ATTENTION = 1;
  private static final int GATE_ATTENTION = 2;
  private static final int SHIFT_MLP = 3;
  private static final int SCALE_MLP = 4;
  private static final int GATE_MLP = 5;

  private final String name;
  private final NormModulate beforeAttention;
  private final SelfAttention attention;
  private final NormModulate beforeMlp;
  private final Mlp mlp;
  private final LinearLayer modulation;

  DiTBlock(ParameterLayout layout, String name, DiTConfig config) {
    int width = config.width();
    this.name = name;
    this.beforeAttention = new NormModulate(config.norm(), SHIFT_ATTENTION, SCALE_ATTENTION);
    this.attention =
        new SelfAttention(layout, name + ".attn", width, config.heads(), config.qkNorm());
    this.beforeMlp = new NormModulate(config.norm(), SHIFT_MLP, SCALE_MLP);
    this.mlp = new Mlp(layout, name + ".mlp", width, (int) Math.rint(width * config.mlpRatio()));
    this.modulation =
        new LinearLayer(
            layout, name + ".adaLN_modulation.1", Initializer.zeros(), 6L * width, width);
  }

  /**
   * @param x tokens, {@code [batch, tokens, width]}
   * @param activatedCondition SiLU of the conditioning, {@code [batch, width]}
   */
  Dual forward(Tape tape, Dual x, Dual activatedCondition) {
    return tape.scope(
        name,
        () -> {
          Dual m = modulation.forward(tape, activatedCondition);
          Dual normal = tape.apply(beforeAttention, x, m);
          Dual mixed = attention.forward(tape, normal);
          tape.release(normal);
          Dual middle = tape.apply(new GatedResidual(GATE_ATTENTION), x, mixed, m);
          tape.release(mixed);
          Dual normalMiddle = tape.apply(beforeMlp, middle, m);
          Dual expanded = mlp.forward(tape, normalMiddle);
          return tape.apply(new GatedResidual(GATE_MLP), middle, expanded, m);
        });
  }
}
