// Launches of the NVLink kernels. Arguments are checked by the group (nvlink_group.h); a launch
// only fails where CUDA refuses it.
#pragma once

#include <cuda_runtime_api.h>

#include "alltoall/nvlink_types.h"

namespace wideep::alltoall {

// Rows are quantised from BF16 to FP8 with scales, or travel as bytes.
enum class Payload { kBytes, kQuantize };

struct Launch {
  cudaStream_t stream = nullptr;
  int blocks = 1;
};

// Loads all kernels on the current device, and allows them their shared memory: loading one at its
// first launch may wait for kernels that wait for us.
cudaError_t load_kernels();

// Large batches and small ones; see docs/alltoall.md. All ranks must choose the same.
cudaError_t launch_dispatch_by_slot(const Launch& launch, Payload payload,
                                    const DispatchArgs& args);
cudaError_t launch_dispatch_by_source(const Launch& launch, Payload payload,
                                      const DispatchArgs& args);
cudaError_t launch_dispatch_small(const Launch& launch, Payload payload, const DispatchArgs& args);
cudaError_t launch_combine(const Launch& launch, const CombineArgs& args);
cudaError_t launch_combine_small(const Launch& launch, const CombineArgs& args);
cudaError_t launch_gather(const Launch& launch, const GatherArgs& args);

// After a rank was masked: agrees with the other active ranks on the epochs and clears the abort
// words. `generation` counts these calls, the same on all ranks.
cudaError_t launch_resume(cudaStream_t stream, const GroupView& group, uint32_t generation);

// Those of load_kernels, by file.
cudaError_t load_dispatch_by_slot();
cudaError_t load_dispatch_by_source();
cudaError_t load_dispatch_small();
cudaError_t load_combine();
cudaError_t load_combine_small();
cudaError_t load_gather();
cudaError_t load_resume();

}  // namespace wideep::alltoall
