// The exact per-batch split: how many tokens each replica takes so that the fullest rank has as
// little as any split allows, in integers, with a certificate.
//
// Given a placement, the smallest possible maximum is  M* = max over rank sets A of
// ceil(tokens of the experts that live only in A / |A|)  (Hall's condition: the split is a
// bipartite flow from experts to ranks, and A is the rank side of a minimum cut). The split starts
// even; what is over the target on a rank is pushed along shortest paths of shared experts to ranks
// below it; where no path is left, the ranks that were reached are a set A that proves a higher
// bound, and the target is raised to it (Newton's method over cuts).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

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
  // Returns the tokens of the fullest rank. Deterministic. O(paths x replicas of shared experts);
  // about ten microseconds at 256 experts, 288 slots, 36 ranks.
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
  void find_components();
  void start_even(std::span<const int64_t> tokens);
  void raise_to_components();
  bool push_from(int source);
  void push_along(int source, int sink);
  void raise_to_reached();

  const Shape shape_;
  std::vector<int> home_slot_;       // [num_experts] slot of an expert with one replica, or -1
  std::vector<int> shared_experts_;  // experts with replicas on several ranks
  std::vector<int> shared_begin_;    // [num_shared + 1] into replicas_
  std::vector<Replica> replicas_;
  std::vector<int> rank_begin_;      // [num_ranks + 1] into rank_replicas_
  std::vector<int> rank_replicas_;   // replicas of shared experts on each rank
  std::vector<int> component_;       // [num_ranks] component of the rank graph
  std::vector<int> component_size_;  // [num_components]

  // Of the current batch:
  std::vector<int64_t> rank_tokens_;     // [num_ranks]
  std::vector<int64_t> replica_tokens_;  // [num_replicas]
  std::vector<int64_t> component_tokens_;
  int64_t target_ = 0;
  std::vector<bool> cut_;   // [num_ranks] the set that proves target_
  int64_t cut_tokens_ = 0;  // of the experts that live only there
  // Of the current search: a rank or expert is reached if its mark equals search_.
  uint32_t search_ = 0;
  std::vector<uint32_t> rank_mark_;
  std::vector<uint32_t> shared_mark_;
  std::vector<int> queue_;
  std::vector<int> from_;  // [num_ranks] replica that tokens leave to reach this rank
  std::vector<int> into_;  // [num_ranks] replica of the same expert on this rank
};

}  // namespace wideep::eplb
