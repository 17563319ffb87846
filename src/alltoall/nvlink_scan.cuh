// Where the rows of a batch go: for every (token, k) pair its place among this rank's rows for the
// slot, and, at a token's first slot of a rank, the token's place among the rows for that rank.
// Both in token order, so that the same routing gives the same bytes.
//
// A large batch is cut into units of tokens. Every block counts its units' pairs, one barrier of
// the grid makes all counts visible, and every block sums those of the units before its own; the
// sums over all units go to the peers as cells. Within a unit one warp walks through the pairs.
#pragma once

#include <cstdint>

#include "alltoall/nvlink_device.cuh"
#include "alltoall/nvlink_regime.h"

namespace wideep::alltoall::device {

inline constexpr uint32_t kNone16 = 0xffffU;

// A pair as the scan keeps it: its slot, and a rank; kNone16 for neither.
__device__ inline uint32_t pack_pair(uint32_t slot, uint32_t rank) {
  return slot | rank << 16;
}

inline constexpr uint32_t kNoPair = 0xffffffffU;

// A pair with its slot's rank. No pair: -1, and slots of ranks that are masked out.
__device__ inline uint32_t load_pair(const DispatchArgs& a, int pair, uint32_t epoch) {
  const int slot = a.slots[pair];
  if (slot == -1) return kNoPair;
  const GroupView& g = a.group;
  if (slot < 0 || slot >= g.shape.num_slots) {
    give_up(g, {ErrorKind::kBadSlot, Phase::kDispatch, Awaited::kReady, g.rank, epoch, 0,
                pair / a.top_k, static_cast<uint64_t>(g.shape.num_slots),
                static_cast<uint64_t>(static_cast<int64_t>(slot))});
    return kNoPair;
  }
  const int rank = slot / g.shape.slots_per_rank();
  if (!is_active(rank)) return kNoPair;
  return pack_pair(static_cast<uint32_t>(slot), static_cast<uint32_t>(rank));
}

// Pair p of load_pair's, with its rank only where no earlier pair of the token has one there. p
// counts from a token's border.
__device__ inline uint32_t keep_first_rank(const uint32_t* pairs, int p, int top_k) {
  const uint32_t rank = pairs[p] >> 16;
  bool first = true;
  for (int q = p - p % top_k; q < p; ++q) first = first && pairs[q] >> 16 != rank;
  return first ? pairs[p] : pack_pair(pairs[p] & 0xffffU, kNone16);
}

__device__ inline void count_if_equal(uint32_t pair, uint32_t mine, int2& count) {
  const uint32_t difference = pair ^ mine;
  count.x += (difference & 0xffffU) == 0 ? 1 : 0;
  count.y += difference >> 16 == 0 ? 1 : 0;
}

// Ranks the pairs [0, num_pairs) of a unit, by one warp: as many whole tokens at a time as it has
// lanes for; equal slots find each other by a match, and a counter a slot carries over. Places
// within the unit go to pair_index and pair_row from first_pair on, counts to `counts` [columns],
// cleared.
__device__ inline void rank_unit(const DispatchArgs& a, const uint32_t* pairs, int num_pairs,
                                 int first_pair, uint32_t* counts) {
  const GroupView& g = a.group;
  const int lane = lane_id();
  const int step = 32 / a.top_k * a.top_k;
  const uint32_t before = (1U << lane) - 1;
  for (int base = 0; base < num_pairs; base += step) {
    const int p = base + lane;
    const bool mine = lane < step && p < num_pairs;
    const uint32_t pair = mine ? pairs[p] : kNoPair;
    const uint32_t slot = pair & 0xffffU;
    const uint32_t rank = pair >> 16;
    // Lanes without a pair match each other and count nothing.
    const uint32_t same_slot = __match_any_sync(kFullWarp, slot);
    const uint32_t token_rank = static_cast<uint32_t>(lane / a.top_k) << 16 | rank;
    const bool first = (__match_any_sync(kFullWarp, token_rank) & before) == 0 && pair != kNoPair;
    const uint32_t same_rank = __match_any_sync(kFullWarp, first ? rank : kNone16);
    int index = -1;
    int row = -1;
    if (pair != kNoPair) {
      index = static_cast<int>(counts[slot]) + __popc(same_slot & before);
      if (first) {
        row = static_cast<int>(counts[g.shape.num_slots + rank]) + __popc(same_rank & before);
      }
    }
    __syncwarp();
    if (pair != kNoPair && (same_slot & before) == 0) counts[slot] += __popc(same_slot);
    if (first && (same_rank & before) == 0) counts[g.shape.num_slots + rank] += __popc(same_rank);
    __syncwarp();
    if (mine) {
      g.pair_index[first_pair + p] = index;
      g.pair_row[first_pair + p] = row;
      if (lane % a.top_k == 0) g.own_row[(first_pair + p) / a.top_k] = -1;
    }
  }
}

// Scans one unit's pairs: places within the unit, and counts to `histogram` (of the grid). Called
// by all threads; `shared_counts` [columns] and `shared_pairs` [kMaxUnitTokens * top_k] are the
// block's.
__device__ inline void scan_unit(const DispatchArgs& a, Range tokens, uint32_t epoch,
                                 uint32_t* shared_counts, uint32_t* shared_pairs,
                                 uint32_t* histogram) {
  const int columns = a.group.shape.columns();
  const int num_pairs = (tokens.end - tokens.begin) * a.top_k;
  const int first_pair = tokens.begin * a.top_k;
  for (int c = static_cast<int>(threadIdx.x); c < columns; c += blockDim.x) shared_counts[c] = 0;
  for (int p = static_cast<int>(threadIdx.x); p < num_pairs; p += blockDim.x) {
    shared_pairs[p] = load_pair(a, first_pair + p, epoch);
  }
  __syncthreads();
  if (warp_id() == 0) rank_unit(a, shared_pairs, num_pairs, first_pair, shared_counts);
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < columns; c += blockDim.x) {
    histogram[c] = shared_counts[c];
  }
}

// Sends the sums over all units to all ranks: a warp a column.
__device__ inline void send_counts(const GroupView& g, int num_units, uint32_t epoch) {
  const int columns = g.shape.columns();
  const int stride = histogram_stride(columns);
  const int warps = static_cast<int>(gridDim.x * (blockDim.x / 32));
  for (int c = static_cast<int>(blockIdx.x) + warp_id() * static_cast<int>(gridDim.x); c < columns;
       c += warps) {
    uint32_t sum = 0;
    for (int u = lane_id(); u < num_units; u += 32) {
      sum += __ldcg(&g.histograms[static_cast<int64_t>(u) * stride + c]);
    }
    sum = __reduce_add_sync(kFullWarp, sum);
    for (int r = lane_id(); r < g.shape.num_ranks; r += 32) {
      if (!is_active(r)) continue;
      ptx::store_relaxed(cells_of(g, g.peers[r], g.rank, epoch) + c,
                         static_cast<uint64_t>(epoch) << 32 | sum);
    }
  }
}

// Adds the histograms of units [begin, end) to shared_counts. Called by all threads; each has four
// columns of some units, all in flight at once.
__device__ inline void add_units(const GroupView& g, int begin, int end, uint32_t* shared_counts) {
  const int columns = g.shape.columns();
  const int fours = histogram_stride(columns) / 4;
  const auto* histograms = reinterpret_cast<const uint4*>(g.histograms);
  const int parts = max(1, static_cast<int>(blockDim.x) / fours);
  for (int i = static_cast<int>(threadIdx.x); i < fours * parts; i += blockDim.x) {
    const int four = i % fours;
    const Range units = share_of(end - begin, i / fours, parts);
    uint4 sum = {0, 0, 0, 0};
#pragma unroll 8
    for (int u = begin + units.begin; u < begin + units.end; ++u) {
      const uint4 counts = __ldcg(&histograms[static_cast<int64_t>(u) * fours + four]);
      sum.x += counts.x;
      sum.y += counts.y;
      sum.z += counts.z;
      sum.w += counts.w;
    }
    const uint32_t sums[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int column = 4 * four + k;
      if (column < columns && sums[k] != 0) atomicAdd(&shared_counts[column], sums[k]);
    }
  }
  __syncthreads();
}

// The whole scan of a large batch; false where a rank gave up. `shared_counts` [columns].
__device__ inline bool scan_batch(const DispatchArgs& a, uint32_t epoch, uint32_t* shared_counts,
                                  uint32_t* shared_pairs) {
  const GroupView& g = a.group;
  const int columns = g.shape.columns();
  const int blocks = static_cast<int>(gridDim.x);
  const int units_per_block = units_of_block(a.tokens, blocks);
  const int num_units = units_per_block * blocks;
  const int first_unit = static_cast<int>(blockIdx.x) * units_per_block;
  for (int u = first_unit; u < first_unit + units_per_block; ++u) {
    __syncthreads();  // the unit before still reads its counts
    scan_unit(a, share_of(a.tokens, u, num_units), epoch, shared_counts, shared_pairs,
              g.histograms + static_cast<int64_t>(u) * histogram_stride(columns));
  }
  if (!grid_barrier(g, Phase::kDispatch, epoch)) return false;
  send_counts(g, num_units, epoch);
  for (int c = static_cast<int>(threadIdx.x); c < columns; c += blockDim.x) shared_counts[c] = 0;
  __syncthreads();
  add_units(g, 0, first_unit, shared_counts);
  for (int u = first_unit; u < first_unit + units_per_block; ++u) {
    const Range tokens = share_of(a.tokens, u, num_units);
    for (int p = tokens.begin * a.top_k + static_cast<int>(threadIdx.x); p < tokens.end * a.top_k;
         p += blockDim.x) {
      const int index = g.pair_index[p];
      const int row = g.pair_row[p];
      const int slot = a.slots[p];
      if (index < 0) continue;
      g.pair_index[p] = index + static_cast<int>(shared_counts[slot]);
      if (row < 0) continue;
      const int rank = slot / g.shape.slots_per_rank();
      const int place = row + static_cast<int>(shared_counts[g.shape.num_slots + rank]);
      g.pair_row[p] = place;
      if (rank == g.rank) g.own_row[p / a.top_k] = place;
    }
    __syncthreads();
    if (u + 1 < first_unit + units_per_block) add_units(g, u, u + 1, shared_counts);
  }
  __syncthreads();
  return true;
}

}  // namespace wideep::alltoall::device
