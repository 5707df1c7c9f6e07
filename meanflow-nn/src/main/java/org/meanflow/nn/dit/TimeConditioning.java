package org.meanflow.nn.dit;

/** Which times a network is told (arXiv 2505.13447, table 1c). */
public enum TimeConditioning {
  /** t and r: {@code t_embedder}, {@code r_embedder}. */
  T_R,
  /** t and h = t − r: {@code t_embedder}, {@code h_embedder}. */
  T_H,
  /** h = t − r alone: {@code h_embedder}. */
  H
}
