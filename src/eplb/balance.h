// The swap search: makes the fullest rank lighter by exchanging experts until all ranks are within
// a tolerance of the mean.
#pragma once

#include <cstdint>
#include <vector>

#include "eplb/draft_placement.h"

namespace wideep::eplb {

struct BalanceOptions {
  double tolerance = 2e-4;  // stop when the fullest rank is within (1 + tolerance) x mean
  // [num_experts] 1: copies of this expert stay where they are. Empty: all may move.
  std::vector<uint8_t> fixed;
};

// Exchanges one expert (or, where no single one helps, two) of the fullest rank for as many of
// another rank, the pair that leaves the smaller maximum of the two, lightest partner first; ends
// at the tolerance or where no exchange helps. Never puts an expert on a rank twice. An exchange
// costs O(num_ranks x slots_per_rank^2) (^4 for two); a few dozen are needed.
void balance(DraftPlacement& placement, const BalanceOptions& options);

}  // namespace wideep::eplb
