#include "moe/slot_chooser.h"

#include <algorithm>
#include <utility>

namespace wideep::moe {

using eplb::ReplicaChoice;

SlotChooser::SlotChooser(ReplicaChoice choice, const eplb::Shape& shape, std::span<const int> slots,
                         std::vector<int64_t> quotas)
    : choice_(choice),
      table_(eplb::make_replica_table(shape, slots)),
      has_replicas_(shape.num_slots > shape.num_experts),
      quotas_(std::move(quotas)),
      splitter_(shape, slots),
      next_(static_cast<size_t>(shape.num_experts)),
      totals_(static_cast<size_t>(shape.num_experts)),
      ends_(static_cast<size_t>(shape.num_slots)),
      tokens_of_slot_(static_cast<size_t>(shape.num_slots)) {
  if (choice == ReplicaChoice::kQuota && quotas_.empty()) {
    // An expert that nothing is known about shares evenly.
    quotas_ = eplb::plan_quotas(shape, slots, totals_);
  }
}

// Where each expert's global token order is cut, and where this rank's tokens begin in it.
void SlotChooser::cut(const Batch& batch) {
  const auto num_experts = std::ssize(next_);
  CHECK(!batch.counts.empty() && std::ssize(batch.counts) % num_experts == 0);
  std::ranges::fill(totals_, 0);
  const auto num_ranks = std::ssize(batch.counts) / num_experts;
  for (int64_t rank = 0; rank < num_ranks; ++rank) {
    if (rank == batch.rank) next_ = totals_;
    for (int64_t e = 0; e < num_experts; ++e) totals_[e] += batch.counts[rank * num_experts + e];
  }
  if (choice_ == ReplicaChoice::kQuota) {
    eplb::quota_ends(table_, quotas_, totals_, ends_);
  } else {
    splitter_.split(totals_, tokens_of_slot_);
    eplb::split_ends(table_, tokens_of_slot_, ends_);
  }
}

void SlotChooser::choose(const Batch& batch, std::span<int32_t> slots) {
  CHECK_EQ(slots.size(), batch.ids.size());
  if (needs_counts()) {
    cut(batch);
  } else {
    std::ranges::fill(next_, 0);
  }
  for (size_t pair = 0; pair < slots.size(); ++pair) {
    const int expert = batch.ids[pair];
    if (expert < 0) {
      slots[pair] = -1;
      continue;
    }
    CHECK(expert < table_.num_experts());
    const int64_t index = next_[expert]++;
    if (needs_counts()) {
      slots[pair] = eplb::slot_of_token(table_, ends_, expert, index);
    } else {
      const int replica =
          eplb::round_robin_replica(table_.num_replicas(expert), expert, batch.rank, index);
      slots[pair] = table_.of(expert)[replica];
    }
  }
}

}  // namespace wideep::moe
