package org.meanflow.core.path;

/**
 * The straight path z_t = (1 − t)·x + t·ε with the constant velocity v = ε − x: the path of
 * rectified flow and of the paper (arXiv 2505.13447, section 4.3).
 */
public record LinearPath() implements FlowPath {
  static final String NAME = "linear";

  @Override
  public String name() {
    return NAME;
  }

  @Override
  public double dataWeight(double t) {
    return 1 - t;
  }

  @Override
  public double noiseWeight(double t) {
    return t;
  }

  @Override
  public double dataWeightRate(double t) {
    return -1;
  }

  @Override
  public double noiseWeightRate(double t) {
    return 1;
  }
}
