// How ops launch their kernels: each may be started while the one before it in the stream ends
// (programmatic dependent launch), since at few rows the starts are what a step waits for.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "base/cuda.h"
#include "base/stream.h"

namespace wideep::kernels {

// The first statement of every kernel that launch_kernel() launches, on all paths: lets the next
// kernel be started, then waits until the one before has ended and its writes are there. A kernel
// may read what no kernel of the stream writes, weights, before it waits.
__device__ inline void allow_next_kernel() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
__device__ inline void wait_for_previous_kernel() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
__device__ inline void follow_previous_kernel() {
  allow_next_kernel();
  wait_for_previous_kernel();
}

struct LaunchShape {
  dim3 blocks;
  dim3 threads;  // of a block
  size_t shared_bytes = 0;
};

template <typename... Parameters, typename... Arguments>
cudaError_t launch_kernel(cudaStream_t stream, const LaunchShape& shape,
                          void (*kernel)(Parameters...), const Arguments&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.blocks;
  config.blockDim = shape.threads;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}
// An error is the device's last one, for check_launch().
template <typename... Parameters, typename... Arguments>
void launch_kernel(const Stream& stream, const LaunchShape& shape, void (*kernel)(Parameters...),
                   const Arguments&... arguments) {
  launch_kernel(stream_of(stream), shape, kernel, arguments...);
}

}  // namespace wideep::kernels
