// Expert ids -> slots, for the tokens of one rank in one layer. The rules are eplb's
// (eplb/replica_choice.h); all ranks choose from the same counts, so nobody is told the others'
// choices.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "eplb/replica_choice.h"
#include "eplb/types.h"

namespace wideep::moe {

class SlotChooser {
 public:
  // slots: [num_slots] expert of each slot. quotas: [num_slots], for kQuota; empty: even shares.
  SlotChooser(eplb::ReplicaChoice choice, const eplb::Shape& shape, std::span<const int> slots,
              std::vector<int64_t> quotas = {});

  // Whether choose() needs the counts of all ranks: only where an expert has replicas.
  bool needs_counts() const {
    return has_replicas_ && splitter_.choice() != eplb::ReplicaChoice::kRoundRobin;
  }

  struct Batch {
    int rank = 0;                     // of these tokens
    std::span<const int32_t> ids;     // [pairs] experts; below 0: none
    std::span<const int32_t> counts;  // [num_ranks, num_experts] tokens of all ranks, or empty
  };
  // slots: [pairs], out; -1 where there is no expert. O(pairs x log replicas), and with counts
  // O(ranks x experts) and a split (eplb/split.h).
  void choose(const Batch& batch, std::span<int32_t> slots);

 private:
  std::span<const int64_t> cut(const Batch& batch);

  const bool has_replicas_;
  eplb::BatchSplitter splitter_;
  // Of the current batch:
  std::vector<int64_t> next_;    // [num_experts] place of this rank's next token
  std::vector<int64_t> totals_;  // [num_experts]
};

}  // namespace wideep::moe
