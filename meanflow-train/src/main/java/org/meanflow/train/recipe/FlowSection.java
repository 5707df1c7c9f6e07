package org.meanflow.train.recipe;

import org.meanflow.core.objective.AdaptiveLoss;
import org.meanflow.core.objective.MeanFlowObjective;
import org.meanflow.core.path.FlowPath;

/**
 * The section {@code flow}: what is trained.
 *
 * @param path name of the path from data to noise, {@code linear} or {@code cosine}
 * @param times law of the pairs (r, t)
 * @param guidance guidance in the target
 * @param loss how the network is compared with its target
 */
public record FlowSection(
    String path, TimesSection times, GuidanceSection guidance, AdaptiveLoss loss) {

  /** Refuses an unknown path. */
  public FlowSection {
    FlowPath.named(path);
  }

  /**
   * The objective of a step.
   *
   * @param step training step, counted from 0
   * @return the objective; the same for all steps but for the guidance
   */
  public MeanFlowObjective objective(long step) {
    return new MeanFlowObjective(FlowPath.named(path), times.sampler(), guidance.at(step), loss);
  }
}
