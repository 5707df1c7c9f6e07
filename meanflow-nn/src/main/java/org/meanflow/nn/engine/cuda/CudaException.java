package org.meanflow.nn.engine.cuda;

/** A call of the CUDA driver or one of its libraries failed, or one of them cannot be used. */
public final class CudaException extends RuntimeException {
  private static final long serialVersionUID = 1;

  CudaException(String message) {
    super(message);
  }

  CudaException(String message, Throwable cause) {
    super(message, cause);
  }
}
