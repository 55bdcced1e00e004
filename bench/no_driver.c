/* A libcuda without a device: what Triton's launchers call, with the last launch written down. */
#include "cuda.h"
#include <string.h>

#define SOME(name) CUresult name { return CUDA_SUCCESS; }

struct {
  unsigned long long count, function, stream, grid[3], block[3], shared;
  int parameters, sizes[126];      /* in: how many the kernel takes, bytes of each */
  unsigned char bytes[126][8];     /* out */
} last;

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra) {
  last.count++;
  last.function = (unsigned long long)function;
  last.stream = (unsigned long long)config->hStream;
  last.grid[0] = config->gridDimX, last.grid[1] = config->gridDimY, last.grid[2] = config->gridDimZ;
  last.block[0] = config->blockDimX, last.block[1] = config->blockDimY, last.block[2] = config->blockDimZ;
  last.shared = config->sharedMemBytes;
  for (int i = 0; i < last.parameters; i++) memcpy(last.bytes[i], parameters[i], last.sizes[i]);
  return CUDA_SUCCESS;
}

static unsigned long long loaded;
CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  *module = (CUmodule)++loaded;
  return CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  *function = (CUfunction)module;
  return CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext *context) {
  *context = (CUcontext)1;
  return CUDA_SUCCESS;
}
CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer) {
  *(CUdeviceptr *)data = pointer;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  *value = attribute == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN ? 101376 : 128;
  return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function) {
  *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
  return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult error, const char **text) {
  *text = "there is no device";
  return CUDA_SUCCESS;
}
CUresult cuDriverGetVersion(int *version) {
  *version = 13000;
  return CUDA_SUCCESS;
}
SOME(cuCtxSetCurrent(CUcontext context))
SOME(cuDeviceGet(CUdevice *device, int number))
SOME(cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device))
SOME(cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value))
SOME(cuFuncSetCacheConfig(CUfunction function, CUfunc_cache preferred))
SOME(cuCtxGetLimit(size_t *value, CUlimit limit))
SOME(cuCtxSetLimit(CUlimit limit, size_t value))
