// Where the rows of a large batch go: for every (token, k) pair its index among this rank's rows
// for the slot, and for every token and rank that it goes to its row among the rows for the rank.
// Both in token order, so that the same routing gives the same bytes.
//
// Every block has a run of tokens. Rows are known first, so that they can be sent at once: each
// block tells all later ones how many of its tokens go to each rank. Indices take longer: blocks
// count the pairs of each slot, a barrier of the grid makes the counts visible, and every block
// sums those of the blocks before it; the sums over all blocks go to the peers as cells.
#pragma once

#include <cstdint>

#include "alltoall/nvlink_device.cuh"
#include "alltoall/nvlink_regime.h"

namespace wideep::alltoall::device {

inline constexpr uint32_t kNone16 = 0xffffU;
inline constexpr uint32_t kNoPair = 0xffffffffU;

// A pair as the scans keep it: its slot, and its slot's rank.
__device__ inline uint32_t pack_pair(uint32_t slot, uint32_t rank) {
  return slot | rank << 16;
}

// A slot id as a pair. No pair: -1, ids that are no slot, and slots of ranks that are masked out.
__device__ inline uint32_t pair_of(const GroupView& g, int slot) {
  if (slot < 0 || slot >= g.shape.num_slots) return kNoPair;
  const int rank = slot / g.shape.slots_per_rank();
  return is_active(rank) ? pack_pair(static_cast<uint32_t>(slot), static_cast<uint32_t>(rank))
                         : kNoPair;
}

// The same of the id of a pair of the batch; gives up where it is no slot.
__device__ inline uint32_t checked_pair(const DispatchArgs& a, int pair, int slot, uint32_t epoch) {
  const GroupView& g = a.group;
  if (slot < -1 || slot >= g.shape.num_slots) {
    give_up(g, {ErrorKind::kBadSlot, Phase::kDispatch, Awaited::kReady, g.rank, epoch, 0,
                pair / a.top_k, static_cast<uint64_t>(g.shape.num_slots),
                static_cast<uint64_t>(static_cast<int64_t>(slot))});
  }
  return pair_of(g, slot);
}

// Whether this lane's pair is its token's first one for the rank; `token` tells tokens apart.
__device__ inline bool leads_rank(uint32_t pair, int token) {
  const uint32_t same =
      __match_any_sync(kFullWarp, static_cast<uint32_t>(token) << 16 | pair >> 16);
  return pair != kNoPair && (same & ((1U << lane_id()) - 1)) == 0;
}

// The tokens of a pushing block are cut into runs, one a warp. In shared memory: for each run and
// rank the rows that its tokens make, then the first of them.
struct RowCounters {
  uint32_t* of_run;  // [runs, num_ranks]
  uint32_t* before;  // [num_ranks] rows of the blocks before this one
  int runs;          // 32 at most
  int num_ranks;

  __device__ uint32_t& at(int run, uint32_t rank) const {
    return of_run[run * num_ranks + static_cast<int>(rank)];
  }
  static constexpr int words(int runs, int num_ranks) { return (runs + 1) * num_ranks; }
};

// Adds the rows of some tokens to those of a run.
__device__ inline void count_rows(const DispatchArgs& a, Range tokens, int run,
                                  const RowCounters& counters) {
  const int step = 32 / a.top_k * a.top_k;
  const int end = tokens.end * a.top_k;
  for (int base = tokens.begin * a.top_k; base < end; base += step) {
    const int p = base + lane_id();
    const bool mine = lane_id() < step && p < end;
    const uint32_t pair = mine ? pair_of(a.group, a.slots[p]) : kNoPair;
    if (leads_rank(pair, lane_id() / a.top_k)) {
      atomicAdd(&counters.at(run, pair >> 16), 1U);
    }
  }
}

// Makes the counts those of each run's first row, by all threads, and waits for the peers' start
// meanwhile. The last block tells the ranks how many rows they get. False where a rank gave up.
__device__ inline bool place_rows(const GroupView& g, uint32_t epoch, const Team& team,
                                  const RowCounters& counters) {
  const int ranks = g.shape.num_ranks;
  const int thread = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  const auto cell = [&](uint32_t count) { return static_cast<uint64_t>(epoch) << 32 | count; };
  uint64_t* const mine = g.block_rows + team.block * ranks;
  for (int r = warp_id(); r < ranks; r += threads / 32) {
    const uint32_t count =
        lane_id() < counters.runs ? counters.at(lane_id(), static_cast<uint32_t>(r)) : 0;
    uint32_t sum = count;
    for (int step = 1; step < 32; step *= 2) {
      const uint32_t other = __shfl_up_sync(kFullWarp, sum, step);
      if (lane_id() >= step) sum += other;
    }
    if (lane_id() < counters.runs) counters.at(lane_id(), static_cast<uint32_t>(r)) = sum - count;
    if (lane_id() == 31) ptx::store_relaxed(&mine[r], cell(sum));
  }
  // By the last warp, which has no part in what follows unless there are many ranks.
  bool ok = warp_id() < threads / 32 - 1 ||
            wait_all_ready(g, g.at.dispatch_ready, Phase::kDispatch, epoch);
  for (int i = thread; i < team.block * ranks && ok; i += threads) {
    uint64_t value = 0;
    ok = wait_for(g, {Phase::kDispatch, Awaited::kGrid, g.rank, epoch, i, epoch},
                  [&](uint64_t& seen) {
                    value = ptx::load_relaxed(&g.block_rows[i]);
                    seen = value >> 32;
                    return static_cast<uint32_t>(seen) == epoch;
                  });
    atomicAdd(&counters.before[i % ranks], static_cast<uint32_t>(value));
  }
  if (__syncthreads_and(ok ? 1 : 0) == 0) return false;
  for (int i = thread; i < counters.runs * ranks; i += threads) {
    counters.of_run[i] += counters.before[i % ranks];
  }
  if (team.block == team.blocks - 1) {
    for (int r = thread; r < ranks; r += threads) {
      if (!is_active(r)) continue;
      const auto own = static_cast<uint32_t>(ptx::load_relaxed(&mine[r]));
      ptx::store_relaxed(cells_of(g, g.peers[r], g.rank, epoch) + g.shape.num_slots + r,
                         cell(counters.before[r] + own));
    }
  }
  __syncthreads();
  return true;
}

// Ranks the pairs of tokens [begin, end) by one warp: as many whole tokens at a time as it has
// lanes for; equal slots find each other by a match, and a counter a slot carries over. Indices
// within the run go to pair_index, counts to `counts` [num_slots], cleared.
__device__ inline void rank_tokens(const DispatchArgs& a, int begin, int end, uint32_t epoch,
                                   uint32_t* counts) {
  const int step = 32 / a.top_k * a.top_k;
  const uint32_t before = (1U << lane_id()) - 1;
  const auto load = [&](int p) { return lane_id() < step && p < end * a.top_k ? a.slots[p] : -1; };
  int next = load(begin * a.top_k + lane_id());
  for (int base = begin * a.top_k; base < end * a.top_k; base += step) {
    const int p = base + lane_id();
    const bool mine = lane_id() < step && p < end * a.top_k;
    const uint32_t pair = checked_pair(a, p, next, epoch);
    next = load(p + step);
    const uint32_t slot = pair & 0xffffU;
    // Lanes without a pair match each other and count nothing.
    const uint32_t same = __match_any_sync(kFullWarp, slot);
    const uint32_t first = pair == kNoPair ? 0 : counts[slot];
    __syncwarp();
    if (pair != kNoPair && (same & before) == 0) counts[slot] = first + __popc(same);
    __syncwarp();
    if (mine) {
      a.group.pair_index[p] =
          pair == kNoPair ? -1 : static_cast<int>(first) + __popc(same & before);
    }
  }
}

// Sends the sums over all blocks to all ranks: a warp a slot.
__device__ inline void send_counts(const GroupView& g, uint32_t epoch, const Team& team) {
  const int stride = histogram_stride(g.shape.num_slots);
  const int warps = static_cast<int>(blockDim.x / 32);
  for (int slot = team.block + warp_id() * team.blocks; slot < g.shape.num_slots;
       slot += warps * team.blocks) {
    uint32_t sum = 0;
    for (int b = lane_id(); b < team.blocks; b += 32) {
      sum += __ldcg(&g.histograms[static_cast<int64_t>(b) * stride + slot]);
    }
    sum = __reduce_add_sync(kFullWarp, sum);
    for (int r = lane_id(); r < g.shape.num_ranks; r += 32) {
      if (!is_active(r)) continue;
      ptx::store_relaxed(cells_of(g, g.peers[r], g.rank, epoch) + slot,
                         static_cast<uint64_t>(epoch) << 32 | sum);
    }
  }
}

// Adds the histograms of the blocks before this one to `sums` [num_slots]. Each thread has four
// slots of some blocks, all in flight at once.
__device__ inline void add_blocks(const GroupView& g, uint32_t* sums, const Team& team) {
  const int fours = histogram_stride(g.shape.num_slots) / 4;
  const auto* histograms = reinterpret_cast<const uint4*>(g.histograms);
  const int parts = max(1, static_cast<int>(blockDim.x) / fours);
  for (int i = static_cast<int>(threadIdx.x); i < fours * parts; i += blockDim.x) {
    const int four = i % fours;
    const Range blocks = share_of(team.block, i / fours, parts);
    uint4 sum = {0, 0, 0, 0};
#pragma unroll 8
    for (int b = blocks.begin; b < blocks.end; ++b) {
      const uint4 counts = __ldcg(&histograms[static_cast<int64_t>(b) * fours + four]);
      sum.x += counts.x;
      sum.y += counts.y;
      sum.z += counts.z;
      sum.w += counts.w;
    }
    const uint32_t words[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int slot = 4 * four + k;
      if (slot < g.shape.num_slots && words[k] != 0) atomicAdd(&sums[slot], words[k]);
    }
  }
}

// Tells the blocks that push that this one's pairs have their indices; called by all threads.
__device__ inline void announce_scanned(const GroupView& g, uint32_t epoch, const Team& team) {
  __syncthreads();
  if (threadIdx.x != 0) return;
  __threadfence();
  if (atomicAdd(&g.state->scanning, 1U) + 1 == static_cast<uint32_t>(team.blocks)) {
    g.state->scanning = 0;
    __threadfence();
    ptx::store_release_gpu(&g.state->scanned, epoch);
  }
}

// The indices of this block's tokens, by all threads; `counts` is shared memory for scan_warps()
// times num_slots words. False where a rank gave up.
__device__ inline bool place_pairs(const DispatchArgs& a, uint32_t epoch, const Team& team,
                                   uint32_t* counts) {
  const GroupView& g = a.group;
  const int slots = g.shape.num_slots;
  const int thread = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  const int warps = scan_warps(slots, threads / 32);
  const auto [begin, end] = share_of(share_of(a.tokens, team.block, team.blocks), warp_id(), warps);
  for (int i = thread; i < warps * slots; i += threads) counts[i] = 0;
  __syncthreads();
  if (warp_id() < warps) rank_tokens(a, begin, end, epoch, counts + warp_id() * slots);
  __syncthreads();
  // Each warp's counts become what the warps before it have; the first one's are free for sums.
  uint32_t* histogram = g.histograms + static_cast<int64_t>(team.block) * histogram_stride(slots);
  for (int s = thread; s < slots; s += threads) {
    uint32_t sum = 0;
#pragma unroll 8
    for (int w = 0; w < warps; ++w) {
      const uint32_t count = counts[w * slots + s];
      counts[w * slots + s] = sum;
      sum += count;
    }
    histogram[s] = sum;
  }
  if (!team_barrier(g, Phase::kDispatch, epoch, team)) return false;
  send_counts(g, epoch, team);
  add_blocks(g, counts, team);
  __syncthreads();
  if (warp_id() < warps) {
    constexpr int kAtOnce = 4;
    for (int base = begin * a.top_k + lane_id(); base < end * a.top_k; base += 32 * kAtOnce) {
      int index[kAtOnce];
      int slot[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int p = base + 32 * i;
        index[i] = p < end * a.top_k ? g.pair_index[p] : -1;
        slot[i] = p < end * a.top_k ? a.slots[p] : -1;
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (index[i] < 0) continue;
        const uint32_t in_block = warp_id() == 0 ? 0 : counts[warp_id() * slots + slot[i]];
        g.pair_index[base + 32 * i] = index[i] + static_cast<int>(counts[slot[i]] + in_block);
      }
    }
  }
  announce_scanned(g, epoch, team);
  return true;
}

}  // namespace wideep::alltoall::device
