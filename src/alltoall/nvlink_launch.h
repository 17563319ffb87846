// How the NVLink kernels are launched. For .cu files.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "alltoall/nvlink_kernels.h"
#include "alltoall/nvlink_regime.h"
#include "kernels/launch.cuh"

namespace wideep::alltoall {

// The kernel may be started while the one before it in the stream ends; it begins with
// ptx::wait_for_previous_kernel(). In a chain of small calls a third of the time is launches.
template <typename Args>
cudaError_t launch_kernel(void (*kernel)(Args), const Launch& launch, int threads, int shared_bytes,
                          const Args& args) {
  return kernels::launch_kernel(launch.stream,
                                {static_cast<unsigned>(launch.blocks),
                                 static_cast<unsigned>(threads), static_cast<size_t>(shared_bytes)},
                                kernel, args);
}

// On the current device.
template <typename Args>
cudaError_t allow_shared_memory(void (*kernel)(Args)) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              kSharedMemoryOfKernel);
}

// A dispatch for each kind of payload.
struct DispatchKernels {
  void (*bytes)(DispatchArgs);
  void (*quantize)(DispatchArgs);

  cudaError_t load() const {
    const cudaError_t error = allow_shared_memory(bytes);
    return error != cudaSuccess ? error : allow_shared_memory(quantize);
  }
  cudaError_t launch(const Launch& launch, Payload payload, int threads, int64_t shared_bytes,
                     const DispatchArgs& args) const {
    return launch_kernel(payload == Payload::kQuantize ? quantize : bytes, launch, threads,
                         static_cast<int>(shared_bytes), args);
  }
};

}  // namespace wideep::alltoall
