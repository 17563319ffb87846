// How the NVLink kernels are launched. For .cu files.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "alltoall/nvlink_kernels.h"

namespace wideep::alltoall {

// Allows the kernel to be started while the one before it in the stream ends; it begins with
// ptx::wait_for_previous_kernel(). In a chain of small calls a third of the time is launches.
template <typename Args>
cudaError_t launch_kernel(void (*kernel)(Args), const Launch& launch, int threads, int shared_bytes,
                          const Args& args) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(launch.blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = launch.stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, args);
}

}  // namespace wideep::alltoall
