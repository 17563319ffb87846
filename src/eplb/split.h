// The exact per-batch split: how many tokens each replica takes so that the fullest rank has as
// little as any split allows, in integers, with a certificate.
//
// Given a placement, the smallest possible maximum is  M* = max over rank sets A of
// ceil(tokens of the experts that live only in A / |A|)  (Hall's condition: the split is a
// bipartite flow from experts to ranks, and A is the rank side of a minimum cut). The split starts
// even and is balanced along a spanning forest (split_forest.h), which is all where every replica
// has the tokens that it is to give. What is then over the target on a rank is pushed towards ranks
// below it, in waves: a rank hands over all it has too much to ranks that are a step nearer, the
// farthest ranks first (Goldberg and Tarjan's push-relabel, with exact distances before each wave).
// Where no way is left, the ranks that cannot get rid of anything are a set A that proves a higher
// bound, and the target is raised to it (Newton's method over cuts).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "eplb/split_forest.h"
#include "eplb/types.h"

namespace wideep::eplb {

// The proof that no split does better: all replicas of some experts are on cut_ranks, and these
// experts have cut_tokens, so one of cut_ranks holds at least ceil(cut_tokens / cut_ranks.size())
// tokens.
struct SplitCertificate {
  int64_t max_tokens = 0;  // of the fullest rank; equals the bound above
  int64_t cut_tokens = 0;
  std::vector<int> cut_ranks;  // ascending
};

// The replicas of a placement, laid out once so that splitting a batch is fast and allocates
// nothing. One thread at a time.
class Splitter {
 public:
  // slots: [num_slots] expert of each slot; every expert needs one (CHECK). Copies of an expert on
  // one rank count as one replica: the first of the slots takes the tokens.
  Splitter(const Shape& shape, std::span<const int> slots);

  // The best split of a batch. tokens: [num_experts], >= 0. tokens_of_slot: [num_slots], out.
  // Returns the tokens of the fullest rank. Deterministic. O(experts + slots + waves x replicas of
  // shared experts); waves are few where the load is the one that the placement was made for.
  int64_t split(std::span<const int64_t> tokens, std::span<int64_t> tokens_of_slot);

  // The same without the slots.
  int64_t best_max(std::span<const int64_t> tokens);

  // The certificate of the last split or best_max; O(num_ranks).
  SplitCertificate certificate() const;

 private:
  // A slot that takes part; replicas of one shared expert are neighbours.
  struct Replica {
    int slot;
    int rank;
    int shared;  // index of its expert among the shared ones
  };

  void index_replicas(std::span<const int> slots);
  SplitForest find_forest() const;
  void start_even(std::span<const int64_t> tokens);
  void weigh_parts();
  void balance_along_forest();
  int count_overfull() const;
  bool find_levels(int overfull);
  void push_wave();
  void push_from(int rank);
  void raise_to_rest();

  const Shape shape_;
  std::vector<int> home_slot_;       // [num_experts] slot of an expert with one replica, or -1
  std::vector<int> shared_experts_;  // experts with replicas on several ranks
  std::vector<int> shared_begin_;    // [num_shared + 1] into replicas_
  std::vector<Replica> replicas_;
  std::vector<int> rank_begin_;     // [num_ranks + 1] into rank_replicas_
  std::vector<int> rank_replicas_;  // replicas of shared experts on each rank
  SplitForest forest_;              // of replicas_

  // Of the current batch:
  std::vector<int64_t> rank_tokens_;     // [num_ranks]
  std::vector<int64_t> replica_tokens_;  // [num_replicas]
  std::vector<int64_t> surplus_;         // [num_ranks + 1] of the ranks before a position
  int64_t target_ = 0;
  std::vector<bool> cut_;   // [num_ranks] the set that proves target_
  int64_t cut_tokens_ = 0;  // of the experts that live only there
  // Of the current wave: a rank or expert is reached if its mark equals wave_.
  uint32_t wave_ = 0;
  std::vector<uint32_t> rank_mark_;
  std::vector<uint32_t> shared_mark_;
  std::vector<int> level_;  // [num_ranks] steps to a rank with room
  std::vector<int> queue_;  // ranks that were reached, levels ascending
};

}  // namespace wideep::eplb
