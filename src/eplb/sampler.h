// Batches drawn from a load: each routed (token, k) pair picks an expert independently with
// probability proportional to its load. Real batches are correlated and vary more; use a trace for
// those.
#pragma once

#include <cstdint>
#include <span>

#include "base/random.h"

namespace wideep::eplb {

// counts: [num_experts], out; sums to `draws` (all zero where the load is). O(num_experts).
void sample_counts(Random& random, std::span<const int64_t> tokens, int64_t draws,
                   std::span<int64_t> counts);

}  // namespace wideep::eplb
