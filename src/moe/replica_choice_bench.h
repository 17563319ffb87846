// Choosing slots on a GPU, for `wideep bench ops`. CUDA only.
#pragma once

#include <vector>

#include "kernels/op_bench.h"

namespace wideep::moe {

// At the experts of DeepSeek-V3, on plans for a skewed load, with batches drawn from it.
std::vector<kernels::OpCase> replica_choice_cases();

}  // namespace wideep::moe
