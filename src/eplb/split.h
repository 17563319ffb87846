// The exact per-batch split: how many tokens each replica takes so that the fullest rank has as
// little as any split allows, in integers, with a certificate.
//
// Given a placement, the smallest possible maximum is  M* = max over rank sets A of
// ceil(tokens of the experts that live only in A / |A|)  (Hall's condition; a bipartite max-flow,
// as in facts known since LPLB issue 4). The even split is the start; rank overflow is pushed along
// shortest paths of shared experts; where no path is left, the ranks that were reached are the set
// A that proves the bound, and the target is raised to it (Newton's method on the cut).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "eplb/types.h"

namespace wideep::eplb {

// The ranks that share experts, prepared once for a placement so that splitting a batch is fast.
class Splitter {
 public:
  // slots: [num_slots] expert of each slot. Every expert must have a slot. Copies of an expert on
  // one rank count as one replica (its first slot takes the tokens).
  Splitter(const Shape& shape, std::span<const int> slots);

  struct Certificate {
    int64_t max_tokens = 0;  // tokens of the fullest rank: ceil(cut_tokens / cut_ranks.size())
    int64_t cut_tokens = 0;  // tokens of the experts all of whose replicas are on cut_ranks
    std::vector<int> cut_ranks;
  };

  // The best split of a batch. tokens: [num_experts] >= 0; tokens_of_slot: [num_slots], out.
  // Returns the tokens of the fullest rank. Deterministic; integers only. O(paths x replicas),
  // about ten microseconds at 256 experts, 288 slots, 36 ranks.
  int64_t split(std::span<const int64_t> tokens, std::span<int64_t> tokens_of_slot);
  // Only the tokens of the fullest rank.
  int64_t best_max(std::span<const int64_t> tokens);
  // Of the last split: the rank set that no split can beat.
  const Certificate& certificate();
};

}  // namespace wideep::eplb
