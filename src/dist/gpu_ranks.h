// Which ranks share a GPU. Built with CUDA only.
#pragma once

#include "base/status.h"
#include "dist/communicator.h"

namespace wideep::dist {

// A collective, each rank with its device current: the most ranks of the group that have one GPU, 1
// where each has its own. The same on all ranks; the first failure of any, on all of them.
Result<int> most_ranks_of_a_gpu(Communicator& group);

}  // namespace wideep::dist
