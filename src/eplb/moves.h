// From one plan to the next: what to copy, from where, and what may be copied at the same time.
#pragma once

#include <span>
#include <vector>

#include "eplb/types.h"

namespace wideep::eplb {

// Slot `slot` gets `expert`, copied from `source_slot`, which held it before. All copies read what
// was there before any move (they go to staging first), so their order does not matter.
struct Move {
  int slot = 0;
  int expert = 0;
  int source_slot = 0;
  int round = 0;  // -1: source and slot are on one rank; else see MovePlan
};

// In one round a rank sends at most one expert and receives at most one, so that rounds run at the
// full rate of the links; there are as many rounds as the busiest rank has transfers (Koenig's
// theorem).
struct MovePlan {
  std::vector<Move> moves;  // by slot
  int num_transfers = 0;    // moves between ranks
  int num_rounds = 0;
};

// Moves of one layer. Sources: the own rank, else a rank of the same node, else any; among those
// the rank that sends the least so far. ranks_per_node 0: one node. Every expert of `next` must
// have a slot in `previous` (CHECK). Deterministic. O(moves x (copies + ranks)).
MovePlan plan_moves(const Shape& shape, std::span<const int> previous, std::span<const int> next,
                    int ranks_per_node = 0);

}  // namespace wideep::eplb
