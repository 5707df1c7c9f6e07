package org.meanflow.nn.engine;

import java.util.List;
import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * Owns the memory of tensors and the kernels that compute on them. An engine belongs to one thread
 * at a time.
 *
 * <p>{@link INDArray}s enter and leave at the edge, by copy: a batch is small beside the work of a
 * step.
 */
public interface Engine extends AutoCloseable {

  /** {@return the name by which the engine is chosen, as in {@code --engine nd4j}} */
  String name();

  /** {@return the arithmetic that the engine was created for} */
  Precision precision();

  /** {@return the operations of this engine} */
  Kernels kernels();

  /**
   * A tensor with undefined content. Memory of closed tensors is used again, so a training step
   * whose shapes do not change allocates nothing after the first.
   *
   * @param shape extents, outermost first
   * @return a new tensor, the caller's to close
   */
  default Tensor allocate(long... shape) {
    return allocate(Storage.FULL, shape);
  }

  /**
   * A tensor with undefined content.
   *
   * @param storage how precisely its elements are kept. Kernels take compact tensors wherever a
   *     {@linkplain org.meanflow.nn.autodiff.Primitive#storage primitive} may put them
   * @param shape extents, outermost first
   * @return a new tensor, the caller's to close
   */
  Tensor allocate(Storage storage, long... shape);

  /**
   * Copies an array to the engine.
   *
   * @param source of any numeric type and order
   * @param target gets the elements in row-major order; of the same length
   */
  void write(INDArray source, Tensor target);

  /**
   * Copies a tensor from the engine.
   *
   * @param source of this engine
   * @return a new c-ordered array of its shape, in the precision's data type
   */
  INDArray read(Tensor source);

  /**
   * Copies an array to a new tensor.
   *
   * @param source of any numeric type and order
   * @return a new tensor of its shape, the caller's to close
   */
  default Tensor copyOf(INDArray source) {
    Tensor tensor = allocate(source.shape());
    write(source, tensor);
    return tensor;
  }

  /**
   * The engines that can compute at the same time on the same memory, each on a thread of its own:
   * this one first. Only this one if it uses all processors by itself.
   *
   * @return the team; the others live as long as this one
   */
  default List<Engine> team() {
    return List.of(this);
  }

  /**
   * Waits until everything that was asked for is done. Only who measures time needs it: whatever
   * reads a result waits by itself.
   */
  default void finish() {}

  /**
   * The time that an engine's threads have spent in products of matrices since the first call of
   * this method, for it is not measured before. The copies of factors into the form that a product
   * takes are part of it, those of weights are not: they are made once per change. Only who asks
   * where the time goes needs it.
   *
   * @return milliseconds, the mean of the threads; NaN where it is not known
   */
  default double productMilliseconds() {
    return Double.NaN;
  }

  /** {@return bytes held for tensors, in use or kept for reuse} */
  long bytesHeld();

  @Override
  void close();
}
