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

// The first failure of any rank, on all ranks; so that nobody goes on alone.
Status agree(dist::Communicator& group, const Status& own);

}  // namespace wideep::alltoall
