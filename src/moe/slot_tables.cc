#include "moe/slot_tables.h"

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "eplb/replica_choice.h"
#include "eplb/split_forest.h"

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
        tables_(tables) {
    CHECK_EQ(static_cast<int>(tables.size()), at_.size);
    std::ranges::fill(tables_, 0);
  }

  void write_places() {
    std::ranges::copy(places_.start, &tables_[at_.start]);
    std::ranges::copy(places_.slots, &tables_[at_.slots]);
    for (int e = 0; e < shape_.num_experts; ++e) {
      int copies = 0;
      for (int i = places_.start[e]; i < places_.start[e + 1]; ++i) {
        tables_[at_.place_rank + i] = shape_.rank_of(places_.slots[i]);
        tables_[at_.place_expert + i] = e;
        copies += is_second(i) ? 0 : 1;
      }
      tables_[at_.copies + e] = copies;
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

  // The places of each rank, those that are shared first.
  void write_ranks() {
    std::vector<int> place_of_slot(static_cast<size_t>(shape_.num_slots));
    for (int i = 0; i < shape_.num_slots; ++i) place_of_slot[places_.slots[i]] = i;
    const auto of_ranks = tables_.subspan(at_.rank_places, place_of_slot.size());
    std::ranges::copy(place_of_slot, of_ranks.begin());
    for (int rank = 0; rank < shape_.num_ranks; ++rank) {
      const auto own = of_ranks.subspan(rank * shape_.slots_per_rank(), shape_.slots_per_rank());
      const auto others = std::stable_partition(own.begin(), own.end(),
                                                [&](int place) { return is_shared(place); });
      tables_[at_.rank_shared + rank] = static_cast<int32_t>(others - own.begin());
    }
    for (int i = 0; i < shape_.num_slots; ++i) {
      if (!is_shared(i)) continue;
      const int e = tables_[at_.place_expert + i];
      for (int k = places_.start[e]; k < places_.start[e + 1]; ++k) {
        set_bit(i, tables_[at_.place_rank + k]);
      }
    }
  }

  void write_forest() {
    std::vector<int> shared;  // places
    std::vector<int> begin = {0};
    std::vector<int> ranks;
    for (int i = 0; i < shape_.num_slots; ++i) {
      if (!is_shared(i)) continue;
      if (!shared.empty() && expert_of(shared.back()) != expert_of(i)) {
        begin.push_back(static_cast<int>(shared.size()));
      }
      shared.push_back(i);
      ranks.push_back(tables_[at_.place_rank + i]);
    }
    if (!shared.empty()) begin.push_back(static_cast<int>(shared.size()));
    const eplb::SplitForest forest = eplb::make_split_forest(shape_.num_ranks, begin, ranks);
    std::ranges::copy(forest.order, &tables_[at_.order]);
    std::ranges::copy(forest.part_begin, &tables_[at_.part_begin]);
    std::ranges::copy(forest.part_end, &tables_[at_.part_end]);
    for (size_t i = 0; i < shared.size(); ++i) {
      tables_[at_.give_begin + shared[i]] = forest.give_begin[i];
      tables_[at_.give_end + shared[i]] = forest.give_end[i];
    }
  }

 private:
  int expert_of(int place) const { return tables_[at_.place_expert + place]; }
  // On the rank of the place before it; slots of an expert ascend.
  bool is_second(int place) const {
    return place > places_.start[expert_of(place)] &&
           tables_[at_.place_rank + place] == tables_[at_.place_rank + place - 1];
  }
  bool is_shared(int place) const {
    return tables_[at_.copies + expert_of(place)] > 1 && !is_second(place);
  }

  void set_bit(int place, int rank) {
    const int words = replica_shape(shape_).rank_words();
    int32_t& word = tables_[at_.place_ranks + place * words + rank / kernels::kRanksOfWord];
    word = static_cast<int32_t>(static_cast<uint32_t>(word) | 1U << (rank % kernels::kRanksOfWord));
  }

  const eplb::Shape& shape_;
  const eplb::ReplicaTable places_;
  const ReplicaTables at_;
  const std::span<int32_t> tables_;
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
  writer.write_ranks();
  writer.write_forest();
}

}  // namespace wideep::moe
