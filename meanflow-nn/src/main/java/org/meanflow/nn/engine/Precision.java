package org.meanflow.nn.engine;

import org.nd4j.linalg.api.buffer.DataType;

/** The arithmetic of a run. */
public enum Precision {
  /** float64 throughout; for tests and references. */
  FP64(DataType.DOUBLE),
  /** float32 throughout. */
  FP32(DataType.FLOAT),
  /**
   * As {@link #FP32}, but products of matrices round their factors to TF32 (10 bits of mantissa).
   */
  TF32(DataType.FLOAT),
  /**
   * Products of matrices take bfloat16 factors and accumulate in float32; {@linkplain
   * Storage#COMPACT compact} tensors are bfloat16. Parameters, reductions, norms, softmax, loss and
   * optimiser stay float32.
   */
  BF16(DataType.FLOAT);

  private final DataType dataType;

  Precision(DataType dataType) {
    this.dataType = dataType;
  }

  /** {@return the type of the arrays that leave an engine of this precision} */
  public DataType dataType() {
    return dataType;
  }
}
