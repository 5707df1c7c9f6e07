package org.meanflow.nn.engine;

import org.nd4j.linalg.api.ndarray.INDArray;

/**
 * Owns the memory of tensors and the kernels that compute on them. An engine belongs to one thread
 * at a time.
 *
 * <p>{@link INDArray}s enter and leave at the edge, by copy: a batch is small beside the work of a
 * step.
 */
public interface Engine extends AutoCloseable {

  /** The name by which the engine is chosen, as in {@code --engine nd4j}. */
  String name();

  /** The arithmetic that the engine was created for. */
  Precision precision();

  /** The operations of this engine. */
  Kernels kernels();

  /**
   * A tensor with undefined content. Memory of closed tensors is used again, so a training step
   * whose shapes do not change allocates nothing after the first.
   */
  Tensor allocate(long... shape);

  /** Copies {@code source}, of any numeric type, into {@code target} of the same length. */
  void write(INDArray source, Tensor target);

  /** Copies {@code source} into a new array of the precision's data type. */
  INDArray read(Tensor source);

  /** A new tensor with the content and the shape of {@code source}. */
  default Tensor copyOf(INDArray source) {
    Tensor tensor = allocate(source.shape());
    write(source, tensor);
    return tensor;
  }

  /** Bytes held for tensors, in use or kept for reuse. */
  long bytesHeld();

  @Override
  void close();
}
