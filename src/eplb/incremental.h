// Incremental planning: from the placement that runs to a better one with as few transfers as
// possible.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "eplb/types.h"

namespace wideep::eplb {

struct IncrementalOptions {
  int max_transfers =
      0;  // slots that may receive an expert their rank did not hold; -1: any number
  double tolerance = 2e-4;  // good enough: fullest rank within (1 + tolerance) x mean
  bool keep_connected =
      true;  // split the rank graph further only where that gains a lot of balance
};

// A placement at most max_transfers away from `previous`, with the smallest even-split maximum that
// the search finds. For a target maximum it takes, one after the other, the step that removes most
// excess per transfer: a copy of a hot expert over a replica of another (one transfer), or an
// exchange of two experts (two, fewer where one goes back to where it was). Bisection finds the
// lowest target that the transfers reach. What did not change stays in its slot. [num_slots].
// Milliseconds at 288 slots.
std::vector<int> improve_placement(const Shape& shape, std::span<const int64_t> tokens,
                                   std::span<const int> previous,
                                   const IncrementalOptions& options);

// Slots of `next` that need an expert which their rank did not hold in `previous`.
int count_transfers(const Shape& shape, std::span<const int> previous, std::span<const int> next);

}  // namespace wideep::eplb
