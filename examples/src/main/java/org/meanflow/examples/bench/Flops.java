package org.meanflow.examples.bench;

import org.meanflow.nn.dit.DiTConfig;
import org.meanflow.nn.dit.TimeConditioning;

/**
 * Floating-point operations of the matrix products of a DiT, two for each multiplication with its
 * addition, by architecture: what an implementation needs at least, not what it executes.
 *
 * <pre>{@code
 * F         one forward: weights × activations (linear) + activations × activations (attention)
 * tangent   each weight product once, each attention product twice, of the samples with r ≠ t
 * backward  2F, less the gradients of the network's inputs, which nobody wants
 * guidance  F
 * }</pre>
 *
 * @param linear products with weights, one forward of the batch
 * @param attention q kᵀ and p v, one forward of the batch
 * @param inputs the part of {@code linear} whose other factor is an input of the network: patches
 *     and features of times
 */
record Flops(double linear, double attention, double inputs) {

  static Flops of(DiTConfig c, int batch) {
    double rows = (double) batch * c.grid() * c.grid();
    double width = c.width();
    double patchValues = (double) c.patch() * c.patch() * c.channels();
    double hidden = Math.rint(width * c.mlpRatio());
    double times = c.conditioning() == TimeConditioning.H ? 1 : 2;

    double block = 3 * width * width + width * width + 2 * width * hidden; // qkv, proj, MLP
    double modulation = (6 * c.depth() + 2) * width * width; // per sample, as are the times
    double timeFeatures = times * c.timeFeatures() * width;
    double timeEmbedding = timeFeatures + times * width * width;
    double patches = patchValues * width;
    return new Flops(
        2 * rows * (patches + c.depth() * block + width * patchValues)
            + 2 * batch * (modulation + timeEmbedding),
        c.depth() * 4 * rows * c.grid() * c.grid() * width,
        2 * rows * patches + 2 * batch * timeFeatures);
  }

  double forward() {
    return linear + attention;
  }

  /**
   * One training step.
   *
   * @param distinct share of the samples with r ≠ t
   * @param guided whether each sample's target asks for the unconditional velocity
   */
  double step(double distinct, boolean guided) {
    double tangent = distinct * (linear + 2 * attention);
    double backward = 2 * forward() - inputs;
    return forward() + tangent + backward + (guided ? forward() : 0);
  }
}
