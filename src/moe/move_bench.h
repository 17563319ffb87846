// Times what the online balancer's moves are made of: an expert's way into another rank's staging
// memory, and from there into a slot.
#pragma once

#include "base/status.h"
#include "base/stream.h"
#include "dist/communicator.h"
#include "moe/slot_bytes.h"

namespace wideep::moe {

// Of one expert; medians over calls, each of them of the slowest rank.
struct MoveTimes {
  int64_t bytes = 0;
  double copy_us = 0;    // to another GPU, while all ranks send and nothing else runs
  double commit_us = 0;  // on the model's stream

  double copy_gbytes_per_second() const { return static_cast<double>(bytes) * 1e-3 / copy_us; }
};

// Collective over a group of two ranks or more, whose streams are GPUs'. Afterwards `slot` has the
// expert that was in the slot of the rank before.
Result<MoveTimes> time_moves(Stream& stream, dist::Communicator& group, const SlotBytes& slot);

}  // namespace wideep::moe
