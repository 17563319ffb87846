// The sending half of a large batch's dispatch, several tokens at once: as many whole ones as a
// warp has lanes for. Lane l has pair l % top_k of the (l / top_k)-th.
#pragma once

#include <cstdint>

#include "alltoall/nvlink_push.cuh"

namespace wideep::alltoall::device {

// The next of a run's tokens.
__device__ inline Range step_of(const DispatchArgs& a, Range tokens, int first) {
  return {min(first, tokens.end), min(first + 32 / a.top_k, tokens.end)};
}

__device__ inline RawRoute look_up_step(const DispatchArgs& a, Range tokens) {
  RawRoute raw;
  if (lane_id() < (tokens.end - tokens.begin) * a.top_k) {
    const int64_t pair = static_cast<int64_t>(tokens.begin) * a.top_k + lane_id();
    raw.slot = a.slots[pair];
    if (a.weights != nullptr) raw.weight = a.weights[pair];
  }
  return raw;
}

// Takes the tokens' rows from the counters of their run.
__device__ inline Route make_routes(const DispatchArgs& a, const RawRoute& raw, int run,
                                    const RowCounters& counters) {
  const uint32_t pair = pair_of(a.group, raw.slot);
  Route route = route_of(raw, pair);
  const bool leads = leads_rank(pair, lane_id() / a.top_k);
  const uint32_t same = __match_any_sync(kFullWarp, leads ? pair >> 16 : kNone16);
  const uint32_t before = same & ((1U << lane_id()) - 1);
  uint32_t first = 0;
  if (leads) first = counters.at(run, pair >> 16);
  __syncwarp();
  if (leads) {
    route.row = static_cast<int>(first) + __popc(before);
    if (before == 0) counters.at(run, pair >> 16) = first + __popc(same);
  }
  __syncwarp();
  return route;
}

// The first packet of a header: what makes a row visible.
struct Head {
  Packet* at = nullptr;  // null: none
  Packet packet = {};
};

// Writes the tokens' headers, but for their first packets, which the lanes with rows get.
__device__ inline Head write_copies(const DispatchArgs& a, Range tokens, const Route& route,
                                    uint32_t epoch) {
  const GroupView& g = a.group;
  const int lane = lane_id();
  const int token = lane / a.top_k;
  const int k = lane % a.top_k;
  const uint32_t same =
      __match_any_sync(kFullWarp, static_cast<uint32_t>(token) << 16 |
                                      (static_cast<uint32_t>(route.rank) & kNone16));
  const int leader = __ffs(static_cast<int>(same)) - 1;
  const int row = __shfl_sync(kFullWarp, route.row, leader);
  int lower = 0;  // ranks that the token goes to
  for (int i = 0; i < a.top_k; ++i) {
    const int rank =
        __shfl_sync(kFullWarp, route.row < 0 ? kMaxNvlinkRanks : route.rank, token * a.top_k + i);
    lower += rank < route.rank ? 1 : 0;
  }
  Head head;
  if (route.rank < 0) return head;
  Packet* header = header_of(g, g.peers[route.rank], g.rank, epoch, row);
  const int index = g.pair_index[static_cast<int64_t>(tokens.begin) * a.top_k + lane];
  const int place = __popc(same & ((1U << lane) - 1));
  const int local = route.slot - route.rank * g.shape.slots_per_rank();
  ptx::store_relaxed(header + 1 + place, copy_packet(local, k, index, route.weight, epoch));
  if (lane == leader) {
    head = {header, head_packet(tokens.begin + token, __popc(same), lower, epoch)};
  }
  return head;
}

}  // namespace wideep::alltoall::device
