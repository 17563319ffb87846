#include "moe/slot_tables.h"

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "eplb/replica_choice.h"

namespace wideep::moe {
namespace {

using kernels::ReplicaTables;

// Fills the tables in the order in which they build upon each other.
class Writer {
 public:
  Writer(const eplb::Shape& shape, std::span<const int> slots, std::span<int32_t> tables)
      : shape_(shape),
        places_(eplb::make_replica_table(shape, slots)),
        at_(ReplicaTables::of(replica_shape(shape))),
        tables_(tables),
        ranks_of_(static_cast<size_t>(shape.num_experts)) {
    CHECK_EQ(static_cast<int>(tables.size()), at_.size);
    std::ranges::fill(tables_, 0);
  }

  void write_places() {
    std::ranges::copy(places_.start, &tables_[at_.start]);
    std::ranges::copy(places_.slots, &tables_[at_.slots]);
    int num_shared = 0;
    for (int e = 0; e < shape_.num_experts; ++e) {
      for (const int slot : places_.of(e)) {
        const int rank = shape_.rank_of(slot);
        // Slots ascend: a second copy on a rank follows the first.
        if (ranks_of_[e].empty() || ranks_of_[e].back() != rank) ranks_of_[e].push_back(rank);
      }
      tables_[at_.home + e] = ranks_of_[e].size() == 1 ? ranks_of_[e].front() : -1 - num_shared++;
    }
  }

  void write_quotas(std::span<const int64_t> quotas) {
    for (int e = 0; e < shape_.num_experts; ++e) {
      int64_t sum = 0;
      for (int i = places_.start[e]; i < places_.start[e + 1]; ++i) {
        sum += quotas[places_.slots[i]];
        tables_[at_.quota_ends + i] = static_cast<int32_t>(sum);
      }
      CHECK_EQ(sum, eplb::kQuotaOne);
    }
  }

  // Entries by rank, then slot; those of each shared expert by rank.
  void write_entries(std::span<const int> slots) {
    std::vector<int> place_of_slot(static_cast<size_t>(shape_.num_slots));
    for (int i = 0; i < shape_.num_slots; ++i) place_of_slot[places_.slots[i]] = i;
    std::vector<std::vector<int>> entries_of(static_cast<size_t>(shape_.num_experts));
    int entry = 0;
    for (int slot = 0; slot < shape_.num_slots; ++slot) {
      const int rank = shape_.rank_of(slot);
      const int expert = slots[slot];
      const int home = tables_[at_.home + expert];
      std::vector<int>& entries = entries_of[expert];
      const bool is_copy = !entries.empty() && tables_[at_.entry_rank + entries.back()] == rank;
      if (home < 0 && !is_copy) {
        entries.push_back(entry);
        tables_[at_.entry_place + entry] = place_of_slot[slot];
        tables_[at_.entry_rank + entry] = rank;
        tables_[at_.entry_shared + entry] = -1 - home;
        for (const int other : ranks_of_[expert]) set_bit(entry, other);
        ++entry;
      }
      tables_[at_.entry_begin + rank + 1] = entry;
    }
    int next = 0;
    for (int e = 0; e < shape_.num_experts; ++e) {
      const int home = tables_[at_.home + e];
      if (home >= 0) continue;
      for (const int of_expert : entries_of[e]) tables_[at_.shared_entries + next++] = of_expert;
      tables_[at_.shared_begin + (-1 - home) + 1] = next;
    }
  }

  // Ranks that share an expert, directly or by way of others, have one number.
  void write_components() {
    std::vector<int> component(static_cast<size_t>(shape_.num_ranks));
    for (int rank = 0; rank < shape_.num_ranks; ++rank) component[rank] = rank;
    for (const std::vector<int>& ranks : ranks_of_) {
      for (const int rank : ranks) {
        const int from = component[rank];
        const int to = component[ranks.front()];
        std::ranges::replace(component, std::max(from, to), std::min(from, to));
      }
    }
    for (int rank = 0; rank < shape_.num_ranks; ++rank) {
      tables_[at_.component + rank] = component[rank];
      ++tables_[at_.component_ranks + component[rank]];
    }
  }

 private:
  void set_bit(int entry, int rank) {
    const int words = replica_shape(shape_).rank_words();
    int32_t& word = tables_[at_.entry_ranks + entry * words + rank / kernels::kRanksOfWord];
    word = static_cast<int32_t>(static_cast<uint32_t>(word) | 1U << (rank % kernels::kRanksOfWord));
  }

  const eplb::Shape& shape_;
  const eplb::ReplicaTable places_;
  const ReplicaTables at_;
  const std::span<int32_t> tables_;
  std::vector<std::vector<int>> ranks_of_;  // [num_experts] ascending
};

}  // namespace

void write_slot_tables(const eplb::Shape& shape, std::span<const int> slots,
                       std::span<const int64_t> quotas, std::span<int32_t> tables) {
  Writer writer(shape, slots, tables);
  writer.write_places();
  if (quotas.empty()) {
    writer.write_quotas(eplb::plan_quotas(
        shape, slots, std::vector<int64_t>(static_cast<size_t>(shape.num_experts))));
  } else {
    writer.write_quotas(quotas);
  }
  writer.write_entries(slots);
  writer.write_components();
}

}  // namespace wideep::moe
