// The sending half of a large batch's dispatch: a token's pairs, its rows among those for each
// rank, and the headers that tell a rank where a row goes.
#pragma once

#include <cstdint>

#include "alltoall/nvlink_device.cuh"
#include "alltoall/nvlink_scan.cuh"

namespace wideep::alltoall::device {

// Lane k's pair as it was loaded.
struct RawRoute {
  int slot = -1;
  float weight = 1;
};

__device__ inline RawRoute look_up(const DispatchArgs& a, int token, int end) {
  RawRoute raw;
  if (token < end && lane_id() < a.top_k) {
    const int64_t pair = static_cast<int64_t>(token) * a.top_k + lane_id();
    raw.slot = a.slots[pair];
    if (a.weights != nullptr) raw.weight = a.weights[pair];
  }
  return raw;
}

// A token's pairs, spread over the lanes: lane k has the k-th.
struct Route {
  int slot = 0;
  int rank = -1;  // -1: no pair
  int row = -1;   // among the rows for the rank; -1: not the token's first slot there
  float weight = 1;
};

__device__ inline Route route_of(const RawRoute& raw, uint32_t pair) {
  if (pair == kNoPair) return {};
  return {raw.slot, static_cast<int>(pair >> 16), -1, raw.weight};
}

// Takes the token's rows from the counters of its warp's run.
__device__ inline Route make_route(const GroupView& g, const RawRoute& raw, int run,
                                   const RowCounters& counters) {
  const uint32_t pair = pair_of(g, raw.slot);
  Route route = route_of(raw, pair);
  if (leads_rank(pair, 0)) route.row = static_cast<int>(counters.at(run, pair >> 16)++);
  return route;
}

// The tokens of a warp, one of `warps` that push, of a pushing block.
__device__ inline Range tokens_of(const DispatchArgs& a, int warp, int warps) {
  return share_of(share_of(a.tokens, static_cast<int>(blockIdx.x), a.push_blocks), warp, warps);
}

// Counters that have the rows of each run's tokens begin where those of the runs and blocks before
// it end; by all threads of a pushing block, each of whose first warps counts for a run, alone or
// with others that lie counters.runs apart. False where a rank gave up.
__device__ inline bool begin_rows(const DispatchArgs& a, uint32_t epoch,
                                  const RowCounters& counters) {
  const int words = RowCounters::words(counters.runs, counters.num_ranks);
  for (int i = static_cast<int>(threadIdx.x); i < words; i += blockDim.x) counters.of_run[i] = 0;
  __syncthreads();
  const int run = warp_id() % counters.runs;
  const int parts = static_cast<int>(blockDim.x) / 32 / counters.runs;
  if (warp_id() < parts * counters.runs) {
    const Range tokens = tokens_of(a, run, counters.runs);
    count_rows(a, share_of(tokens, warp_id() / counters.runs, parts), run, counters);
  }
  __syncthreads();
  return place_rows(a.group, epoch, {static_cast<int>(blockIdx.x), a.push_blocks}, counters);
}

// Waits until all pairs have their indices, by a whole warp; false where a rank gave up.
__device__ inline bool wait_scanned(const GroupView& g, uint32_t epoch) {
  return wait_by_warp(g, {Phase::kDispatch, Awaited::kGrid, g.rank, epoch, 0, epoch}, [&] {
    const bool scanned = ptx::load_acquire_gpu(&g.state->scanned) == epoch;
    return __all_sync(kFullWarp, scanned) != 0;
  });
}

// Writes the headers of a token at the ranks of the lanes `leaders`.
__device__ inline void write_headers(const DispatchArgs& a, int token, const Route& route,
                                     uint32_t leaders, uint32_t epoch) {
  const GroupView& g = a.group;
  const int lane = lane_id();
  const int index = route.rank < 0 ? 0 : g.pair_index[static_cast<int64_t>(token) * a.top_k + lane];
  for (uint32_t left = leaders; left != 0; left &= left - 1) {
    const int leader = __ffs(static_cast<int>(left)) - 1;
    const int rank = __shfl_sync(kFullWarp, route.rank, leader);
    const int row = __shfl_sync(kFullWarp, route.row, leader);
    const uint32_t same = __ballot_sync(kFullWarp, route.rank == rank);
    const uint32_t lower = __ballot_sync(kFullWarp, route.row >= 0 && route.rank < rank);
    Packet* header = header_of(g, g.peers[rank], g.rank, epoch, row);
    if (route.rank == rank) {
      const int place = __popc(same & ((1U << lane) - 1));
      const int local = route.slot - rank * g.shape.slots_per_rank();
      ptx::store_relaxed(header + 1 + place, copy_packet(local, lane, index, route.weight, epoch));
    }
    if (lane == leader) {
      ptx::store_relaxed(header, head_packet(token, __popc(same), __popc(lower), epoch));
    }
  }
}

}  // namespace wideep::alltoall::device
