// Placements with recourse: balanced for the load they are planned on, and with replicas placed so
// that the best split can also balance batches that differ from it.
//
// What a split can still balance is decided by the graph of ranks joined by shared experts. For
// every set A of ranks, the tokens that can leave A are those of the experts that A shares with
// others: batch noise in A, about the square root of its tokens, must stay below that slack. So (1)
// the graph should be connected, which takes num_ranks - 1 spare slots; with fewer, its components
// should be equally large, because noise averages out within one; (2) no cycles while spare slots
// are scarce; (3) every branch behind a shared expert should be small: the trees are stars, with
// the replicas of the largest shares in the middle. The experts with one replica do not touch the
// graph: exchanging them balances the ranks afterwards.
#pragma once

#include <cstdint>
#include <span>

#include "eplb/draft_placement.h"

namespace wideep::eplb {

// A balanced placement of the tokens with a connected rank graph, or as few and as equal components
// as the spare slots allow. Deterministic. About 0.2 ms at 256 experts, 288 slots, 36 ranks.
DraftPlacement recourse_placement(const Shape& shape, std::span<const int64_t> tokens);

}  // namespace wideep::eplb
