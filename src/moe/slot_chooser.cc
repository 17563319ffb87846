#include "moe/slot_chooser.h"

#include <algorithm>
#include <utility>

namespace wideep::moe {
namespace {

using eplb::ReplicaChoice;

// An expert that nothing is known about shares evenly.
std::vector<int64_t> even_quotas(const eplb::Shape& shape, std::span<const int> slots) {
  return eplb::plan_quotas(shape, slots,
                           std::vector<int64_t>(static_cast<size_t>(shape.num_experts)));
}

}  // namespace

SlotChooser::SlotChooser(ReplicaChoice choice, const eplb::Shape& shape, std::span<const int> slots,
                         std::vector<int64_t> quotas)
    : has_replicas_(shape.num_slots > shape.num_experts),
      splitter_(choice, shape, slots,
                choice == ReplicaChoice::kQuota && quotas.empty() ? even_quotas(shape, slots)
                                                                  : std::move(quotas)),
      next_(static_cast<size_t>(shape.num_experts)),
      totals_(static_cast<size_t>(shape.num_experts)) {}

// Where each expert's global token order is cut, and where this rank's tokens begin in it.
std::span<const int64_t> SlotChooser::cut(const Batch& batch) {
  const auto num_experts = std::ssize(next_);
  CHECK(!batch.counts.empty() && std::ssize(batch.counts) % num_experts == 0);
  std::ranges::fill(totals_, 0);
  const auto num_ranks = std::ssize(batch.counts) / num_experts;
  for (int64_t rank = 0; rank < num_ranks; ++rank) {
    if (rank == batch.rank) next_ = totals_;
    for (int64_t e = 0; e < num_experts; ++e) totals_[e] += batch.counts[rank * num_experts + e];
  }
  return splitter_.ends(totals_);
}

void SlotChooser::choose(const Batch& batch, std::span<int32_t> slots) {
  CHECK_EQ(slots.size(), batch.ids.size());
  const eplb::ReplicaTable& table = splitter_.table();
  std::span<const int64_t> ends;
  if (needs_counts()) {
    ends = cut(batch);
  } else {
    std::ranges::fill(next_, 0);
  }
  for (size_t pair = 0; pair < slots.size(); ++pair) {
    const int expert = batch.ids[pair];
    if (expert < 0) {
      slots[pair] = -1;
      continue;
    }
    CHECK(expert < table.num_experts());
    const int64_t index = next_[expert]++;
    if (needs_counts()) {
      slots[pair] = eplb::slot_of_token(table, ends, expert, index);
    } else {
      const int replica =
          eplb::round_robin_replica(table.num_replicas(expert), expert, batch.rank, index);
      slots[pair] = table.of(expert)[replica];
    }
  }
}

}  // namespace wideep::moe
