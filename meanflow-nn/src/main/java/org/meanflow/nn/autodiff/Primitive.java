package org.meanflow.nn.autodiff;

import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.meanflow.nn.engine.Cotangent;
import org.meanflow.nn.engine.Kernels;
import org.meanflow.nn.engine.Saved;
import org.meanflow.nn.engine.Storage;
import org.meanflow.nn.engine.Tensor;

/**
 * One differentiable operation and its three rules: value, tangent and cotangent.
 *
 * <p>Inputs are activations, whose first extent is the batch, or parameters, which have no batch
 * and no tangent. The result is an activation. Attributes of an operation (an axis, an ε, labels)
 * are fields of the primitive.
 */
public interface Primitive {

  /**
   * The shape of the result.
   *
   * @param inputs shapes of the inputs; not to be changed
   * @return extents, the first the batch
   * @throws IllegalArgumentException if the shapes do not fit, with the shapes
   */
  long[] shape(List<long[]> inputs);

  /**
   * Computes the result.
   *
   * @param k kernels of the engine
   * @param x the inputs
   * @param y the result
   * @param keep whether {@link #jvp} or {@link #vjp} will be called
   * @return what these rules need besides inputs and result; {@link Saved#NOTHING} for nothing
   */
  Saved forward(Kernels k, Tensor[] x, Tensor y, boolean keep);

  /**
   * Computes the result's tangent, for the first m samples.
   *
   * @param k kernels of the engine
   * @param e the evaluation, its activations cut to the first m samples (what was saved is not cut)
   * @param dx tangent of each input, {@code null} where it is zero; at least one is not
   * @param dy the result, of m samples
   */
  void jvp(Kernels k, Evaluation e, @Nullable Tensor[] dx, Tensor dy);

  /**
   * Computes the cotangents of the inputs.
   *
   * @param k kernels of the engine
   * @param e the evaluation
   * @param gy cotangent of the result
   * @param gx where the cotangent of each input goes, {@code null} where it is not wanted
   */
  void vjp(Kernels k, Evaluation e, Tensor gy, @Nullable Cotangent[] gx);

  /**
   * How precisely the result, its tangent and its cotangent are kept.
   *
   * @return {@link Storage#COMPACT} only for results that enter matrix products or come from one;
   *     the kernels of those who take them must accept it
   */
  default Storage storage() {
    return Storage.FULL;
  }

  /**
   * Whether the cotangent of an input is that of the result, unchanged. Then the tape may hand the
   * result's tensor on, and does not ask {@link #vjp} for that input.
   *
   * @param i index of the input
   * @return whether x̄ = ȳ, in the same storage
   */
  default boolean passesCotangent(int i) {
    return false;
  }

  /**
   * Whether {@link #vjp} writes only a part of the cotangent of an input, so that the rest must be
   * set to zero beforehand.
   *
   * @param i index of the input
   * @return whether the rule leaves elements of that cotangent unwritten
   */
  default boolean writesPart(int i) {
    return false;
  }

  /**
   * A forward evaluation, as the other two rules see it.
   *
   * @param x the inputs
   * @param y the result
   * @param saved what the forward kernel remembered
   */
  record Evaluation(Tensor[] x, Tensor y, Saved saved) {}

  /**
   * A primitive that is affine in its first input, its only activation: value and tangent go
   * through the same kernel, stacked along the batch.
   */
  interface Stackable extends Primitive {

    /**
     * Computes value and tangent at once.
     *
     * @param k kernels of the engine
     * @param x the inputs; the first has the values in its first {@code batch} rows, the tangents
     *     in the rest
     * @param batch number of samples
     * @param y the result, stacked in the same way
     */
    void forwardStacked(Kernels k, Tensor[] x, long batch, Tensor y);

    @Override
    default Saved forward(Kernels k, Tensor[] x, Tensor y, boolean keep) {
      forwardStacked(k, x, y.dim(0), y);
      return Saved.NOTHING;
    }
  }

  /** An elementwise map of one input, with a diagonal Jacobian. */
  interface Elementwise extends Primitive {

    /**
     * y = f(x).
     *
     * @param k kernels of the engine
     * @param x the input
     * @param y the result, the shape of {@code x}
     * @param keep whether {@link #slope} will be called
     * @return what the slope needs
     */
    Saved forward(Kernels k, Tensor x, Tensor y, boolean keep);

    /**
     * y = f′(x) ⊙ d, or y += f′(x) ⊙ d: the tangent rule and the cotangent rule.
     *
     * @param k kernels of the engine
     * @param x the input
     * @param saved what {@link #forward(Kernels, Tensor, Tensor, boolean)} remembered
     * @param d ẋ for the tangent, ȳ for the cotangent
     * @param y the result, the shape of {@code x}
     * @param add whether to add to {@code y} or to overwrite it
     */
    void slope(Kernels k, Tensor x, Saved saved, Tensor d, Tensor y, boolean add);

    @Override
    default long[] shape(List<long[]> inputs) {
      return inputs.getFirst();
    }

    @Override
    default Saved forward(Kernels k, Tensor[] x, Tensor y, boolean keep) {
      return forward(k, x[0], y, keep);
    }

    @Override
    default void jvp(Kernels k, Evaluation e, @Nullable Tensor[] dx, Tensor dy) {
      slope(k, e.x()[0], e.saved(), Objects.requireNonNull(dx[0]), dy, false);
    }

    @Override
    default void vjp(Kernels k, Evaluation e, Tensor gy, @Nullable Cotangent[] gx) {
      Cotangent g = gx[0];
      if (g != null) {
        slope(k, e.x()[0], e.saved(), gy, g.target(), g.add());
      }
    }
  }
}
