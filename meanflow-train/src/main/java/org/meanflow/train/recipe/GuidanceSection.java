package org.meanflow.train.recipe;

import org.jspecify.annotations.Nullable;
import org.meanflow.core.objective.DroppedTarget;
import org.meanflow.core.objective.Guidance;

/**
 * The section {@code flow.guidance}: a {@link Guidance} that may begin later than the training.
 *
 * @param omega ω, weight of the conditional velocity; 1 with κ = 0 for no guidance
 * @param kappa κ, weight of the class-conditional field
 * @param from first guided time
 * @param to last guided time
 * @param dropProbability probability with which a sample loses its label, from the first step on
 * @param dropped what samples without their label regress to
 * @param startStep first guided step, ≥ 0; {@code null} for 0. A network that has learned nothing
 *     yet has no field worth following.
 */
public record GuidanceSection(
    double omega,
    double kappa,
    double from,
    double to,
    double dropProbability,
    DroppedTarget dropped,
    @Nullable Long startStep) {

  /** Refuses what {@link Guidance} refuses, and a step below 0. */
  public GuidanceSection {
    new Guidance(omega, kappa, from, to, dropProbability, dropped);
    if (startStep != null && startStep < 0) {
      throw new IllegalArgumentException("startStep must be >= 0, got " + startStep);
    }
  }

  /**
   * The guidance of a step. Before {@code startStep} ω is 1 and κ is 0: ṽ = v for all samples,
   * while labels are dropped as later.
   *
   * @param step training step, counted from 0
   * @return the guidance
   */
  public Guidance at(long step) {
    return startStep != null && step < startStep
        ? new Guidance(1, 0, from, to, dropProbability, dropped)
        : new Guidance(omega, kappa, from, to, dropProbability, dropped);
  }
}
