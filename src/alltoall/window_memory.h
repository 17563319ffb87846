// Symmetric memory as a window of NCCL's. Internal to alltoall.
#pragma once

#include <cstdint>
#include <memory>

#include "alltoall/symmetric_memory.h"
#include "base/status.h"

namespace wideep::alltoall {

// Collective; kUnavailable where this build has no NCCL, or not all ranks are in one NVLink domain.
Result<std::unique_ptr<SymmetricMemory>> make_window_memory(dist::Communicator& group,
                                                            int64_t bytes);

}  // namespace wideep::alltoall
