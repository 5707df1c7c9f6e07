package org.meanflow.nn.engine;

import org.nd4j.linalg.api.buffer.DataType;

/** The arithmetic of a run. */
public enum Precision {
  /** float64 throughout; for tests and references. */
  FP64(DataType.DOUBLE),
  /** float32 throughout. */
  FP32(DataType.FLOAT);

  private final DataType dataType;

  Precision(DataType dataType) {
    this.dataType = dataType;
  }

  /** {@return the type of the arrays that leave an engine of this precision} */
  public DataType dataType() {
    return dataType;
  }
}
