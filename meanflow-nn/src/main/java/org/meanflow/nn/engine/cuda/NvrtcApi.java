package org.meanflow.nn.engine.cuda;

/** The functions of NVRTC that are used (nvrtc.h); all but the last return an nvrtcResult. */
interface NvrtcApi {

  int nvrtcVersion(long major, long minor);

  int nvrtcGetNumSupportedArchs(long count);

  int nvrtcGetSupportedArchs(long architectures);

  int nvrtcCreateProgram(
      long program, long source, long name, int headers, long headerSources, long headerNames);

  int nvrtcCompileProgram(long program, int count, long options);

  int nvrtcGetProgramLogSize(long program, long size);

  int nvrtcGetProgramLog(long program, long log);

  int nvrtcGetCUBINSize(long program, long size);

  int nvrtcGetCUBIN(long program, long image);

  int nvrtcDestroyProgram(long program);

  /** Returns a {@code const char*}. */
  long nvrtcGetErrorString(int result);
}
