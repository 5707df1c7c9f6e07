package org.meanflow.nn;

import org.jspecify.annotations.Nullable;
import org.meanflow.core.field.AverageVelocity;
import org.meanflow.nn.autodiff.Dual;
import org.meanflow.nn.autodiff.ParameterLayout;
import org.meanflow.nn.autodiff.Tape;

/**
 * The structure of a network u_θ(z, r, t | c): which primitives it applies to which parameters. It
 * holds no numbers, so the trained weights and each of their moving averages share one structure.
 */
public interface VelocityNetwork {

  /** {@return names, shapes and places of the parameters} */
  ParameterLayout parameters();

  /**
   * Evaluates the network on a tape.
   *
   * @param tape computes, and holds θ
   * @param z points, {@code [batch, ...]}
   * @param r earlier times, {@code [batch]}
   * @param t current times, {@code [batch]}
   * @param labels class of each sample, {@link AverageVelocity#NO_LABEL} where it has none; {@code
   *     null} if no sample has one
   * @return u, the shape of {@code z}
   * @throws IllegalArgumentException if shapes or labels do not fit
   */
  Dual forward(Tape tape, Dual z, Dual r, Dual t, int @Nullable [] labels);
}
