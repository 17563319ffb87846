// NCCL tells where a window is in a peer's memory on the device only.
#include "alltoall/window_pointers.h"

#include <nccl.h>
#include <nccl_device.h>

namespace wideep::alltoall {
namespace {

__global__ void pointers_kernel(ncclWindow_t window, int count, std::byte** pointers) {
  const int peer = static_cast<int>(threadIdx.x);
  if (peer < count) pointers[peer] = static_cast<std::byte*>(ncclGetLsaPointer(window, 0, peer));
}

}  // namespace

cudaError_t write_window_pointers(ncclWindow_t window, int count, std::byte** pointers) {
  pointers_kernel<<<1, 128>>>(window, count, pointers);
  const cudaError_t error = cudaGetLastError();
  return error != cudaSuccess ? error : cudaDeviceSynchronize();
}

}  // namespace wideep::alltoall
