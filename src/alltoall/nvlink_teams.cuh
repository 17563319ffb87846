// The two teams of blocks of a large batch's dispatch: those that push, and those that work out the
// headers' indices and then receive.
//
// A few blocks fill the links, and their stores over the links hold up whatever else goes through
// their multiprocessor's memory pipeline: that is why pushing and receiving do not share one.
#pragma once

#include <cstdint>

#include "alltoall/nvlink_receive.cuh"
#include "alltoall/nvlink_regime.h"
#include "alltoall/nvlink_scan.cuh"

namespace wideep::alltoall::device {

// Bytes that a receiving block of `warps` warps needs: rows, sums, and the counters of its scan,
// which become the table.
inline int64_t receiving_bytes(const Shape& shape, int warps) {
  const int64_t counts = int64_t{shape.num_slots} * scan_warps(shape.num_slots, warps);
  return int64_t{4} * (kMaxNvlinkRanks + warps + counts);
}

// The kernel: push(epoch) by the blocks that push, receive(epoch, team, table) by the others once
// the indices of their tokens and the table are there. Blocks have kWarps warps.
template <int kWarps, typename Push, typename Receive>
__device__ void run_teams(const DispatchArgs& a, uint32_t* memory, const Push& push,
                          const Receive& receive) {
  const GroupView& g = a.group;
  ptx::wait_for_previous_kernel();
  const uint32_t epoch = next_epoch(g.state->dispatch_epoch);
  if (must_skip(g, Phase::kDispatch, epoch)) return;
  announce(g, g.at.dispatch_ready, epoch);
  if (static_cast<int>(blockIdx.x) < a.push_blocks) {
    push(epoch);
  } else {
    uint32_t* const sums = memory + kMaxNvlinkRanks;
    uint32_t* const counts = sums + kWarps;
    const Team team = {static_cast<int>(blockIdx.x) - a.push_blocks,
                       static_cast<int>(gridDim.x) - a.push_blocks};
    const ReceiveTable table = {counts, memory, sums, team.block == 0};
    if (place_pairs(a, epoch, team, counts) && fill_table(a, epoch, table)) {
      receive(epoch, team, table);
      __syncwarp();
      if (blockIdx.x == gridDim.x - 1) copy_all_counts(a, epoch, {0, 1});
    }
  }
  finish_phase(&g.state->dispatch_epoch);
}

}  // namespace wideep::alltoall::device
