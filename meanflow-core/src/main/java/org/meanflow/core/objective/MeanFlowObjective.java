package org.meanflow.core.objective;

import org.jspecify.annotations.Nullable;
import org.meanflow.core.field.Tangent;
import org.meanflow.core.field.TrainableVelocity;
import org.meanflow.core.path.FlowPath;
import org.meanflow.core.random.Purpose;
import org.meanflow.core.random.RandomStream;
import org.meanflow.core.time.TimePairSampler;
import org.meanflow.core.time.TimePairs;
import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * The MeanFlow training objective (arXiv 2505.13447, algorithm 1): regress u(z_t, r, t | c) to ṽ −
 * (t − r)·du/dt.
 *
 * @param path how z_t is made from data and noise
 * @param times law of the pairs (r, t)
 * @param guidance what ṽ is
 * @param loss how u is compared with its target
 */
public record MeanFlowObjective(
    FlowPath path, TimePairSampler times, Guidance guidance, AdaptiveLoss loss) {

  /**
   * Evaluates the objective on a batch with randomness of its own, a function of (seed, step,
   * rank).
   *
   * @param field the field being trained
   * @param x data, shape {@code [batch, ...]}, float32 or float64; not changed
   * @param labels class of each sample, or {@code null} if no sample has one; not changed
   * @param seed seed of the run
   * @param step training step, ≥ 0
   * @param rank index of the device, 0 for the first or only one
   * @return the recorded pass with its loss; the caller closes it
   * @throws IllegalArgumentException if shapes, data types or lengths do not fit
   */
  public Result evaluate(
      TrainableVelocity field,
      INDArray x,
      int @Nullable [] labels,
      long seed,
      long step,
      int rank) {
    int batch = (int) x.size(0);
    INDArray noise =
        new RandomStream(seed, step, rank, Purpose.NOISE).normalArray(x.dataType(), x.shape());
    TimePairs pairs = times.sample(batch, new RandomStream(seed, step, rank, Purpose.TIME));
    boolean[] dropped =
        labels == null
            ? new boolean[batch]
            : guidance.drop(batch, new RandomStream(seed, step, rank, Purpose.LABEL_DROP));
    return evaluate(field, x, noise, pairs, labels, dropped);
  }

  /**
   * Evaluates the objective with all randomness given.
   *
   * @param field the field being trained
   * @param x data, shape {@code [batch, ...]}, float32 or float64; not changed
   * @param noise ε, shape and data type of {@code x}; not changed
   * @param pairs times of each sample
   * @param labels class of each sample before any is dropped, or {@code null} if no sample has one;
   *     not changed
   * @param dropped which samples lose their label
   * @return the recorded pass with its loss; the caller closes it
   * @throws IllegalArgumentException if shapes, data types or lengths do not fit
   */
  public Result evaluate(
      TrainableVelocity field,
      INDArray x,
      INDArray noise,
      TimePairs pairs,
      int @Nullable [] labels,
      boolean[] dropped) {
    double[] r = pairs.r();
    double[] t = pairs.t();
    INDArray z = path.interpolate(x, noise, t);
    INDArray v = path.velocity(x, noise, t);
    INDArray velocity = guidance.velocity(field, z, t, v, labels, dropped);
    Tangent tangent = Tangent.along(Rows.first(velocity, pairs.distinct()));
    int[] seen = guidance.effectiveLabels(labels, dropped);

    TrainableVelocity.Pass pass = field.pass(z, r, t, seen, tangent);
    try {
      INDArray target = MeanFlowTarget.of(velocity, pass.jvp(), r, t);
      return new Result(pass, loss.of(pass.u(), target), target, velocity, pairs);
    } catch (RuntimeException | Error e) {
      pass.close();
      throw e;
    }
  }

  /**
   * The objective on one batch, ready for its backward pass.
   *
   * @param pass the recorded evaluation of the field; closed with this result
   * @param loss the loss and its cotangent
   * @param target u_tgt, shape {@code [batch, ...]}
   * @param velocity ṽ, shape {@code [batch, ...]}
   * @param pairs times of each sample
   */
  public record Result(
      TrainableVelocity.Pass pass, Loss loss, INDArray target, INDArray velocity, TimePairs pairs)
      implements AutoCloseable {

    /**
     * Adds the gradient of the loss to the gradients of the field's parameters.
     *
     * @throws IllegalStateException when called a second time
     */
    public void backward() {
      pass.backward(loss.cotangent());
    }

    @Override
    public void close() {
      pass.close();
    }
  }
}
