// What the NVLink kernels share: addresses in symmetric memory, waits that end, the grid's barrier,
// and the start and end of a phase.
#pragma once

#include <cstdint>

#include "alltoall/nvlink_types.h"
#include "alltoall/ptx.cuh"

namespace wideep::alltoall::device {

inline constexpr uint32_t kFullWarp = 0xffffffffU;

__device__ inline int lane_id() {
  return static_cast<int>(threadIdx.x % 32);
}
__device__ inline int warp_id() {
  return static_cast<int>(threadIdx.x / 32);
}

template <typename T>
__device__ T* at(std::byte* memory, int64_t offset) {
  return reinterpret_cast<T*>(memory + offset);
}

// In the memory of `owner`: the counts that `source` wrote.
__device__ inline uint64_t* cells_of(const GroupView& g, std::byte* owner, int source,
                                     uint32_t epoch) {
  const int64_t index = static_cast<int64_t>(epoch & 1) * g.shape.num_ranks + source;
  return at<uint64_t>(owner, g.at.cells) + index * g.shape.columns();
}
// The header of a row of `source`.
__device__ inline Packet* header_of(const GroupView& g, std::byte* owner, int source,
                                    uint32_t epoch, int64_t row) {
  const int64_t index = static_cast<int64_t>(epoch & 1) * g.shape.num_ranks + source;
  return at<Packet>(owner, g.at.headers) + (index * g.shape.max_tokens + row) * (g.shape.top_k + 1);
}
// A header's packets; read_head() and read_copy() take them apart. `slot` is the rank's own number
// of it, `index` the row's among the sender's for the slot; `lower` counts the ranks before this
// one that the token goes to.
__device__ inline Packet head_packet(int token, int copies, int lower, uint32_t epoch) {
  const uint32_t counts = static_cast<uint32_t>(copies) | static_cast<uint32_t>(lower) << 8;
  return {{static_cast<uint32_t>(token), counts, 0}, epoch};
}
__device__ inline Packet copy_packet(int slot, int k, int index, float weight, uint32_t epoch) {
  const uint32_t tag = static_cast<uint32_t>(slot) | static_cast<uint32_t>(k) << 16;
  return {{tag, static_cast<uint32_t>(index), __float_as_uint(weight)}, epoch};
}

// The ranks that are not masked, as the block has them in shared memory since must_skip().
__device__ inline uint8_t* active_ranks() {
  __shared__ uint8_t active[kMaxNvlinkRanks];
  return active;
}
__device__ inline bool is_active(int rank) {
  return active_ranks()[rank] != 0;
}

__device__ inline bool is_aborted(const GroupView& g) {
  return ptx::load_relaxed(at<uint64_t>(g.self, g.at.abort)) != 0;
}

// Keeps the first error of this rank and stops all ranks.
__device__ inline void give_up(const GroupView& g, const ErrorRecord& record) {
  if (atomicCAS(&g.state->error_taken, 0U, 1U) == 0) {
    volatile ErrorRecord* to = g.error;
    to->phase = record.phase;
    to->awaited = record.awaited;
    to->peer = record.peer;
    to->epoch = record.epoch;
    to->index = record.index;
    to->expected = record.expected;
    to->seen = record.seen;
    ptx::fence_sys();
    to->kind = record.kind;
    ptx::fence_sys();
  }
#pragma unroll 1
  for (int r = 0; r < g.shape.num_ranks; ++r) {
    if (g.active[r] != 0) {
      ptx::store_relaxed(at<uint64_t>(g.peers[r], g.at.abort), static_cast<uint64_t>(g.rank) + 1);
    }
  }
}

// Names a wait for the error that it may end in.
struct Wait {
  Phase phase;
  Awaited awaited;
  int peer;
  uint32_t epoch;
  int64_t index;
  uint64_t expected;
};

inline constexpr uint32_t kPollsBetweenChecks = 64;

// Whether a wait since `start` must end; gives up then.
__device__ inline bool must_end(const GroupView& g, const Wait& wait, uint64_t start,
                                uint64_t seen) {
  // While ranks resume, what stopped them may still be on its way.
  const uint64_t abort =
      wait.phase == Phase::kResume ? 0 : ptx::load_relaxed(at<uint64_t>(g.self, g.at.abort));
  // The block of this rank that is waited for may be waiting for a peer: its wait ends first, and
  // names the peer.
  const uint64_t timeout = wait.peer == g.rank ? 2 * g.timeout_ns : g.timeout_ns;
  if (abort == 0 && ptx::nanoseconds() - start <= timeout) return false;
  give_up(g, {abort != 0 ? ErrorKind::kAborted : ErrorKind::kTimeout, wait.phase, wait.awaited,
              abort != 0 ? static_cast<int>(abort) - 1 : wait.peer, wait.epoch, 0, wait.index,
              wait.expected, seen});
  return true;
}

// Polls until poll(seen) is true. False: some rank gave up, this one after its timeout.
template <typename Poll>
__device__ bool wait_for(const GroupView& g, const Wait& wait, const Poll& poll) {
  uint64_t seen = 0;
  uint64_t start = 0;
#pragma unroll 1
  for (uint32_t polls = 1; !poll(seen); ++polls) {
    if (polls % kPollsBetweenChecks != 0) continue;
    if (start == 0) start = ptx::nanoseconds();
    if (must_end(g, wait, start, seen)) return false;
  }
  return true;
}

// The same by a whole warp: poll() is called by all lanes and the same on all.
template <typename Poll>
__device__ bool wait_by_warp(const GroupView& g, const Wait& wait, const Poll& poll) {
  uint64_t start = 0;
#pragma unroll 1
  for (uint32_t polls = 1; !poll(); ++polls) {
    if (polls % kPollsBetweenChecks != 0) continue;
    if (start == 0) start = ptx::nanoseconds();
    const bool ends = lane_id() == 0 && must_end(g, wait, start, 0);
    if (__any_sync(kFullWarp, ends)) return false;
  }
  return true;
}

// The same where each lane of a warp waits for something of its own: poll(seen) is each lane's, and
// the first one that still waits is whose error it is.
template <typename Poll>
__device__ bool wait_lanes(const GroupView& g, const Wait& wait, const Poll& poll) {
  uint64_t start = 0;
#pragma unroll 1
  for (uint32_t polls = 1;; ++polls) {
    uint64_t seen = 0;
    const uint32_t waiting = __ballot_sync(kFullWarp, !poll(seen));
    if (waiting == 0) return true;
    if (polls % kPollsBetweenChecks != 0) continue;
    if (start == 0) start = ptx::nanoseconds();
    const bool first = lane_id() == __ffs(static_cast<int>(waiting)) - 1;
    if (__any_sync(kFullWarp, first && must_end(g, wait, start, seen))) return false;
  }
}

// Whether an epoch has been reached, also across the wrap of 32 bits.
__device__ inline bool reached(uint32_t seen, uint32_t wanted) {
  return static_cast<int32_t>(seen - wanted) >= 0;
}

// Waits for the epoch that `peer` wrote to its word of `flags`.
__device__ inline bool wait_ready(const GroupView& g, int64_t flags, Phase phase, int peer,
                                  uint32_t epoch) {
  const uint32_t* flag = at<uint32_t>(g.self, flags) + peer;
  return wait_for(g, {phase, Awaited::kReady, peer, epoch, 0, epoch}, [&](uint64_t& seen) {
    const uint32_t value = ptx::load_acquire(flag);
    seen = value;
    return reached(value, epoch);
  });
}

// The same for all other active ranks, by a whole warp.
__device__ inline bool wait_all_ready(const GroupView& g, int64_t flags, Phase phase,
                                      uint32_t epoch) {
  bool ok = true;
  for (int r = lane_id(); r < g.shape.num_ranks && ok; r += 32) {
    if (is_active(r) && r != g.rank) ok = wait_ready(g, flags, phase, r, epoch);
  }
  ok = __all_sync(kFullWarp, ok);
  __syncwarp();  // what one lane acquired, all may use
  return ok;
}

// The count that `source` wrote to a cell; -1 where the wait ended in an error.
__device__ inline int wait_cell(const GroupView& g, int source, uint32_t epoch, int column) {
  const uint64_t* cell = cells_of(g, g.self, source, epoch) + column;
  uint64_t value = 0;
  const bool ok = wait_for(g, {Phase::kDispatch, Awaited::kCounts, source, epoch, column, epoch},
                           [&](uint64_t& seen) {
                             value = ptx::load_relaxed(cell);
                             seen = value >> 32;
                             return static_cast<uint32_t>(value >> 32) == epoch;
                           });
  return ok ? static_cast<int>(value & 0xffffffffU) : -1;
}

// A packet of this epoch. `acquire`: what its sender wrote before it can be read after it.
template <bool acquire>
__device__ inline bool wait_packet(const GroupView& g, const Wait& wait, const Packet* from,
                                   Packet& packet) {
  return wait_for(g, wait, [&](uint64_t& seen) {
    packet = acquire ? ptx::load_acquire(from) : ptx::load_relaxed(from);
    seen = packet.epoch;
    return packet.epoch == wait.epoch;
  });
}

// A block among those that do the same; the whole grid, or a part of it.
struct Team {
  int block;
  int blocks;
};

// A block's share of a step of a word of DeviceState.
__device__ inline uint64_t share_of_step(const Team& team) {
  constexpr uint64_t kStep = uint64_t{1} << 32;
  const uint64_t share = UINT32_MAX / static_cast<uint32_t>(team.blocks);  // 64 bits take 0.2 us
  return team.block == 0 ? kStep - (team.blocks - 1) * share : share;
}

// All blocks of a team; called by all threads, by one team and once a kernel.
__device__ inline bool team_barrier(const GroupView& g, Phase phase, uint32_t epoch,
                                    const Team& team) {
  __shared__ int passed;
  uint64_t before = 0;
  if (threadIdx.x == 0) before = ptx::load_acquire_gpu(&g.state->grid_barrier) >> 32;
  __syncthreads();
  if (threadIdx.x == 0) {
    ptx::add_release_gpu(&g.state->grid_barrier, share_of_step(team));
    passed = wait_for(g, {phase, Awaited::kGrid, g.rank, epoch, 0, before + 1},
                      [&](uint64_t& seen) {
                        seen = ptx::load_acquire_gpu(&g.state->grid_barrier) >> 32;
                        return seen != before;
                      })
                 ? 1
                 : 0;
  }
  __syncthreads();
  return passed != 0;
}

// Tells every peer that this rank has come to `epoch`. Called by all threads; the last warps of the
// block do it, so that the first ones can go on.
__device__ inline void announce(const GroupView& g, int64_t flags, uint32_t epoch) {
  const int peer = static_cast<int>(blockDim.x - 1 - threadIdx.x);
  if (blockIdx.x == 0 && peer < g.shape.num_ranks && is_active(peer)) {
    ptx::store_release(at<uint32_t>(g.peers[peer], flags) + g.rank, epoch);
  }
}

// The start of a kernel: true where the group has failed and it must do nothing. The same for all
// threads of a block; blocks that saw no failure stop at their first wait.
__device__ inline bool must_skip(const GroupView& g, Phase phase, uint32_t epoch) {
  __shared__ int skip;
  for (int r = static_cast<int>(threadIdx.x); r < g.shape.num_ranks; r += blockDim.x) {
    active_ranks()[r] = g.active[r];
  }
  if (threadIdx.x == 0) {
    skip = is_aborted(g) ? 1 : 0;
    if (skip != 0 && blockIdx.x == 0) {
      const int by = static_cast<int>(ptx::load_relaxed(at<uint64_t>(g.self, g.at.abort))) - 1;
      give_up(g, {ErrorKind::kAborted, phase, Awaited::kReady, by, epoch, 0, 0, epoch, 0});
    }
  }
  __syncthreads();
  return skip != 0;
}

// The epoch of a phase that begins, from its word.
__device__ inline uint32_t next_epoch(const uint64_t& word) {
  return static_cast<uint32_t>(word >> 32) + 1;
}

// The end of a phase, by all threads: its epoch advances when all blocks have come here. Where
// ranks share a device, only now may the next kernel's blocks take room: earlier they could keep
// out another rank's, which this one waits for.
__device__ inline void finish_phase(uint64_t* word) {
  __syncthreads();
  ptx::allow_next_kernel();
  if (threadIdx.x == 0)
    ptx::add_relaxed_gpu(
        word, share_of_step({static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x)}));
}

// Places spread over the lanes: those of `lanes` have one each.
struct Places {
  uint32_t lanes = 0;
  std::byte* to = nullptr;  // this lane's
};

// Calls body(place) for every place, by the whole warp.
template <typename Body>
__device__ inline void for_each_place(const Places& places, const Body& body) {
  for (uint32_t left = places.lanes; left != 0; left &= left - 1) {
    const int lane = __ffs(static_cast<int>(left)) - 1;
    body(reinterpret_cast<std::byte*>(
        __shfl_sync(kFullWarp, reinterpret_cast<uint64_t>(places.to), lane)));
  }
}

// [begin, end) of `count` for part `part` of `parts`: the first ones have one more where it does
// not come out even. (A product and a division of 64 bits would be a microsecond of a kernel's
// start.)
struct Range {
  int begin;
  int end;
};
__device__ inline Range share_of(int count, int part, int parts) {
  const int each = count / parts;
  const int more = count % parts;
  const int begin = part * each + min(part, more);
  return {begin, begin + each + (part < more ? 1 : 0)};
}
__device__ inline Range share_of(const Range& all, int part, int parts) {
  const Range share = share_of(all.end - all.begin, part, parts);
  return {all.begin + share.begin, all.begin + share.end};
}

}  // namespace wideep::alltoall::device
