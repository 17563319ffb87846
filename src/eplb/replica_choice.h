// Which replica takes a token. Senders decide: every rank knows the counts of all source ranks (the
// all-to-all exchanges them), so all three choices below are pure functions of what every rank has,
// and the same functions say how many tokens each slot will get and where one token goes.
//
//   round_robin  a source rank deals an expert's tokens over the replicas in turn. Needs no counts.
//   quota        each replica takes a fixed share of an expert's tokens (fixed point, from the plan
//                or the load), cut exactly along the expert's global token order.
//   per_batch    the shares are those of the best split of this batch (split.h).
//
// An expert's global token order: the tokens of source rank 0 in their order, then those of rank 1,
// and so on. With quota and per_batch a replica takes one contiguous piece of it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "config/balancer_config.h"
#include "eplb/split.h"
#include "eplb/types.h"

namespace wideep::eplb {

using wideep::parse_replica_choice;
using wideep::replica_choice_name;
using wideep::ReplicaChoice;

// The replicas of each expert.
struct ReplicaTable {
  std::vector<int> start;  // [num_experts + 1] first entry of each expert in `slots`
  std::vector<int> slots;  // [num_slots] grouped by expert, ascending within an expert

  int num_experts() const { return static_cast<int>(start.size()) - 1; }
  int num_replicas(int expert) const { return start[expert + 1] - start[expert]; }
  std::span<const int> of(int expert) const {
    return {slots.data() + start[expert], static_cast<size_t>(num_replicas(expert))};
  }
};

// slots: [num_slots] expert of each slot; every expert must have one.
ReplicaTable make_replica_table(const Shape& shape, std::span<const int> slots);

// The replica (0 .. num_replicas - 1) of a source rank's index-th token of an expert. Sources start
// at different replicas, so that many sources with a token or two each still fill replicas evenly.
inline int round_robin_replica(int num_replicas, int expert, int source_rank, int64_t index) {
  return static_cast<int>((source_rank + expert + index) % num_replicas);
}

// Tokens of each slot [num_slots], out, where every source rank deals its own tokens.
// counts: [num_source_ranks, num_experts]. Each source gives each replica its even share to within
// one token. O(num_source_ranks x num_slots).
void round_robin_split(const ReplicaTable& table, std::span<const int64_t> counts,
                       std::span<int64_t> tokens_of_slot);

// Quotas are fixed point so that every rank and device cuts at the same token.
inline constexpr int64_t kQuotaOne = int64_t{1} << 30;

// The quotas [num_slots] of the best split of `tokens` [num_experts] (the load that the plan was
// made for); those of an expert sum to kQuotaOne. Experts without tokens share evenly.
std::vector<int64_t> plan_quotas(const Shape& shape, std::span<const int> slots,
                                 std::span<const int64_t> tokens);

// Where an expert's global token order is cut. ends: [num_slots], in the order of table.slots, out:
// one past the last token that the replica takes. The replica's tokens are within one of
// quota x tokens. tokens: [num_experts] summed over source ranks, each < 2^33.
void quota_ends(const ReplicaTable& table, std::span<const int64_t> quotas,
                std::span<const int64_t> tokens, std::span<int64_t> ends);

// The same cut for given tokens of each slot (of Splitter::split).
void split_ends(const ReplicaTable& table, std::span<const int64_t> tokens_of_slot,
                std::span<int64_t> ends);

// Tokens of each slot [num_slots], out, for a cut.
void ends_to_tokens(const ReplicaTable& table, std::span<const int64_t> ends,
                    std::span<int64_t> tokens_of_slot);

// The slot of an expert's `index`-th token in the global order, index < tokens of the expert.
// O(log replicas).
int slot_of_token(const ReplicaTable& table, std::span<const int64_t> ends, int expert,
                  int64_t index);

// Splits batches by one choice over one placement. Not thread-safe; make one a thread.
class BatchSplitter {
 public:
  // quotas: [num_slots], for kQuota only.
  BatchSplitter(ReplicaChoice choice, const Shape& shape, std::span<const int> slots,
                std::vector<int64_t> quotas = {});

  // True: split() needs counts of every source rank. False: their sum over sources is enough.
  bool needs_sources() const { return choice_ == ReplicaChoice::kRoundRobin; }

  // counts: [num_source_ranks, num_experts], or one row of sums where needs_sources() is false.
  // Returns the tokens of each slot [num_slots], valid until the next call.
  std::span<const int64_t> split(std::span<const int64_t> counts);

  // Where each expert's global token order is cut, [num_slots] in the order of table().slots, for
  // tokens [num_experts] over all sources; not with round robin. Valid until the next call.
  std::span<const int64_t> ends(std::span<const int64_t> tokens);

  ReplicaChoice choice() const { return choice_; }
  const ReplicaTable& table() const { return table_; }

 private:
  ReplicaChoice choice_;
  ReplicaTable table_;
  std::vector<int64_t> quotas_;
  Splitter splitter_;
  std::vector<int64_t> totals_;          // [num_experts]
  std::vector<int64_t> ends_;            // [num_slots]
  std::vector<int64_t> tokens_of_slot_;  // [num_slots]
};

}  // namespace wideep::eplb
