package org.meanflow.nn.engine.cuda;

/** The functions of NCCL that are used (nccl.h); all but the last return a ncclResult_t. */
interface NcclApi {

  int ncclGetVersion(long version);

  int ncclCommInitAll(long communicators, int count, long devices);

  int ncclCommDestroy(long communicator);

  int ncclCommAbort(long communicator);

  int ncclAllReduce(
      long source,
      long target,
      long count,
      int type,
      int operation,
      long communicator,
      long stream);

  /** Returns a {@code const char*}. */
  long ncclGetErrorString(int result);
}
