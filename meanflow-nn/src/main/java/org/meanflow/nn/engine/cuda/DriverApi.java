package org.meanflow.nn.engine.cuda;

/**
 * The functions of the CUDA driver that are used (cuda.h). Pointers, device addresses, sizes and
 * handles are {@code long}; all return a CUresult.
 */
interface DriverApi {

  int cuInit(int flags);

  int cuDriverGetVersion(long version);

  int cuGetErrorName(int error, long string);

  int cuGetErrorString(int error, long string);

  int cuDeviceGetCount(long count);

  int cuDeviceGet(long device, int ordinal);

  int cuDeviceGetName(long name, int length, int device);

  int cuDeviceGetAttribute(long value, int attribute, int device);

  int cuDeviceTotalMem_v2(long bytes, int device);

  int cuDevicePrimaryCtxRetain(long context, int device);

  int cuDevicePrimaryCtxRelease_v2(int device);

  int cuCtxSetCurrent(long context);

  int cuMemGetInfo_v2(long free, long total);

  int cuMemAlloc_v2(long address, long bytes);

  int cuMemFree_v2(long address);

  int cuMemAllocHost_v2(long pointer, long bytes);

  int cuMemFreeHost(long pointer);

  int cuMemcpyDtoH_v2(long target, long source, long bytes);

  int cuMemcpyHtoDAsync_v2(long target, long source, long bytes, long stream);

  int cuMemcpyDtoHAsync_v2(long target, long source, long bytes, long stream);

  int cuMemcpyDtoDAsync_v2(long target, long source, long bytes, long stream);

  int cuStreamCreate(long stream, int flags);

  int cuStreamDestroy_v2(long stream);

  int cuStreamSynchronize(long stream);

  int cuStreamWaitEvent(long stream, long event, int flags);

  int cuEventCreate(long event, int flags);

  int cuEventRecord(long event, long stream);

  int cuEventSynchronize(long event);

  int cuEventDestroy_v2(long event);

  int cuModuleLoadData(long module, long image);

  int cuModuleGetFunction(long function, long module, long name);

  int cuModuleGetGlobal_v2(long address, long bytes, long module, long name);

  int cuFuncSetAttribute(long function, int attribute, int value);

  int cuLaunchKernel(
      long function,
      int gridX,
      int gridY,
      int gridZ,
      int blockX,
      int blockY,
      int blockZ,
      int sharedBytes,
      long stream,
      long parameters,
      long extra);

  int cuStreamBeginCapture_v2(long stream, int mode);

  int cuStreamEndCapture(long stream, long graph);

  int cuGraphInstantiateWithFlags(long executable, long graph, long flags);

  int cuGraphLaunch(long executable, long stream);

  int cuGraphExecDestroy(long executable);

  int cuGraphDestroy(long graph);
}
