package org.meanflow.nn.dit;

import org.meanflow.nn.autodiff.Dual;
import org.meanflow.nn.autodiff.Initializer;
import org.meanflow.nn.autodiff.ParameterLayout;
import org.meanflow.nn.autodiff.Tape;
import org.meanflow.nn.engine.PatchOrder;
import org.meanflow.nn.layer.LinearLayer;
import org.meanflow.nn.primitive.NormModulate;
import org.meanflow.nn.primitive.Unpatchify;

/** The head: modulated normalisation, a linear map to the values of a patch, and the image. */
final class FinalLayer {
  private static final int SHIFT = 0;
  private static final int SCALE = 1;

  private final String name;
  private final NormModulate normModulate;
  private final LinearLayer linear;
  private final LinearLayer modulation;
  private final Unpatchify unpatchify;

  FinalLayer(ParameterLayout layout, String name, DiTConfig config) {
    int width = config.width();
    long patchValues = (long) config.patch() * config.patch() * config.channels();
    this.name = name;
    this.normModulate = new NormModulate(config.norm(), SHIFT, SCALE);
    this.linear =
        new LinearLayer(layout, name + ".linear", Initializer.zeros(), patchValues, width);
    this.modulation =
        new LinearLayer(
            layout, name + ".adaLN_modulation.1", Initializer.zeros(), 2L * width, width);
    this.unpatchify =
        new Unpatchify(
            PatchOrder.CHANNEL_LAST,
            config.patch(),
            config.channels(),
            config.imageSize(),
            config.imageSize());
  }

  /** From tokens {@code [batch, tokens, width]} to images {@code [batch, channels, size, size]}. */
  Dual forward(Tape tape, Dual x, Dual activatedCondition) {
    return tape.scope(
        name,
        () -> {
          Dual m = modulation.forward(tape, activatedCondition);
          return tape.apply(unpatchify, linear.forward(tape, tape.apply(normModulate, x, m)));
        });
  }
}
