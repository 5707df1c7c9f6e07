package org.meanflow.core.path;

/**
 * The variance-preserving path z_t = cos(πt/2)·x + sin(πt/2)·ε: a² + b² = 1, so z_t has unit
 * variance at all times if x has (Nichol and Dhariwal, arXiv 2102.09672; in this form Salimans and
 * Ho, arXiv 2202.00512).
 */
public record CosinePath() implements FlowPath {
  static final String NAME = "cosine";

  private static final double QUARTER_TURN = Math.PI / 2;

  @Override
  public String name() {
    return NAME;
  }

  @Override
  public double dataWeight(double t) {
    return Math.cos(QUARTER_TURN * t);
  }

  @Override
  public double noiseWeight(double t) {
    return Math.sin(QUARTER_TURN * t);
  }

  @Override
  public double dataWeightRate(double t) {
    return -QUARTER_TURN * Math.sin(QUARTER_TURN * t);
  }

  @Override
  public double noiseWeightRate(double t) {
    return QUARTER_TURN * Math.cos(QUARTER_TURN * t);
  }
}
