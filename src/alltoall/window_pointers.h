// Where a NCCL window is in the memory of each rank of the NVLink domain. Internal to alltoall.
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>

namespace wideep::alltoall {

// pointers: [count] on the device; count <= 128. Waits for the device.
cudaError_t write_window_pointers(ncclWindow_t window, int count, std::byte** pointers);

}  // namespace wideep::alltoall
