package org.meanflow.nn.engine.cuda;

/** The functions of cuBLASLt that are used (cublasLt.h); all but two return a cublasStatus_t. */
interface CublasLtApi {

  int cublasLtCreate(long handle);

  int cublasLtDestroy(long handle);

  /** Returns the version. */
  long cublasLtGetVersion();

  /** Returns a {@code const char*}. */
  long cublasLtGetStatusString(int status);

  int cublasLtMatmulDescCreate(long description, int computeType, int scaleType);

  int cublasLtMatmulDescDestroy(long description);

  int cublasLtMatmulDescSetAttribute(long description, int attribute, long value, long bytes);

  int cublasLtMatrixLayoutCreate(long layout, int type, long rows, long columns, long stride);

  int cublasLtMatrixLayoutDestroy(long layout);

  int cublasLtMatmulPreferenceCreate(long preference);

  int cublasLtMatmulPreferenceDestroy(long preference);

  int cublasLtMatmulPreferenceSetAttribute(long preference, int attribute, long value, long bytes);

  int cublasLtMatmulAlgoGetHeuristic(
      long handle,
      long description,
      long a,
      long b,
      long c,
      long d,
      long preference,
      int requested,
      long results,
      long found);

  int cublasLtMatmul(
      long handle,
      long description,
      long alpha,
      long aPointer,
      long a,
      long bPointer,
      long b,
      long beta,
      long cPointer,
      long c,
      long dPointer,
      long d,
      long algorithm,
      long workspace,
      long workspaceBytes,
      long stream);
}
