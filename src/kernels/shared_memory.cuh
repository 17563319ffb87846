// Shared memory beyond what every kernel may have.
#pragma once

#include <cuda_runtime.h>

namespace wideep::kernels {

inline constexpr int kSharedMemory = 227 << 10;  // that a block of a Hopper GPU may have

// Lets a kernel be launched with as much as there is. Always as much: the limit is the device's,
// and another rank's thread may be about to launch the same kernel with a larger block.
template <typename Kernel>
void allow_shared_memory(Kernel kernel) {
  cudaFuncAttributes attributes{};
  cudaFuncGetAttributes(&attributes, kernel);
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       kSharedMemory - static_cast<int>(attributes.sharedSizeBytes));
}

}  // namespace wideep::kernels
