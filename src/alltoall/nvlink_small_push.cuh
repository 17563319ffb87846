// The sending half of a small batch's dispatch: the batch counted in shared memory, and a block's
// share of the headers and rows.
#pragma once

#include <cstdint>

#include "alltoall/nvlink_kernels.h"
#include "alltoall/nvlink_lines.cuh"
#include "alltoall/nvlink_scan.cuh"
#include "alltoall/quantize.cuh"

namespace wideep::alltoall::device {

inline constexpr int kSmallWarps = kSmallThreads / 32;

// Of a pair in shared memory, a bit that slots leave free: it is its token's first for its rank.
inline constexpr uint32_t kLeads = 0x8000;
static_assert(kMaxSlots < kLeads);

// Shared memory of a block that sends.
struct Outgoing {
  uint32_t* counts;   // [columns] rows for each slot, then for each rank; zeros at first
  uint32_t* pairs;    // [tokens * top_k]
  uint32_t* numbers;  // [tokens * top_k] of the block's tokens: the pair's index among the rows for
                      // its slot, and << 16 its row among those for its rank, if it leads
};

__device__ inline Outgoing outgoing(const DispatchArgs& a, uint32_t* memory) {
  uint32_t* const pairs = memory + a.group.shape.columns();
  return {memory, pairs, pairs + a.tokens * a.top_k};
}

__device__ inline Lines small_row(const DispatchArgs& a, std::byte* owner, int source,
                                  uint32_t epoch, int64_t row) {
  const Shape& shape = a.group.shape;
  const int64_t index = static_cast<int64_t>(epoch & 1) * shape.num_ranks + source;
  return {
      owner + a.group.at.small_rows +
          (index * shape.small_tokens + row) * bytes_as_lines(shape.row_bytes, shape.scale_bytes),
      lines_of_row(a.row_bytes)};
}

// What a thread loads of a part: a vector of the row as it travels, or two of BF16.
template <Payload kPayload>
struct Input {
  uint4 v[kPayload == Payload::kQuantize ? 2 : 1];
  float scale;  // of the line whose last lane this is
};

template <Payload kPayload>
__device__ inline Input<kPayload> load_part(const DispatchArgs& a, int token, int v) {
  Input<kPayload> input = {};
  const std::byte* const from = a.rows + token * a.row_stride;
  if (v < static_cast<int>(a.row_bytes / kVectorBytes)) {
    constexpr int kOf = sizeof(input.v) / kVectorBytes;
#pragma unroll
    for (int i = 0; i < kOf; ++i) {
      input.v[i] = ptx::load_input(from + int64_t{kVectorBytes} * (v * kOf + i));
    }
  }
  if (a.scales != nullptr && ends_line(v) && v / kVectorsOfLine < a.scale_columns) {
    input.scale = a.scales[static_cast<int64_t>(token) * a.scale_columns + v / kVectorsOfLine];
  }
  return input;
}

// The vector as it travels, and its line's scale. By whole warps.
template <Payload kPayload>
__device__ inline uint4 make_vector(const Input<kPayload>& input, float& scale) {
  scale = input.scale;
  if constexpr (kPayload == Payload::kQuantize) {
    return quantize16(input.v[0], input.v[1], scale);
  } else {
    return input.v[0];
  }
}

// This lane's weight of a token's pair.
__device__ inline float load_weight(const DispatchArgs& a, int token) {
  if (a.weights == nullptr || lane_id() >= a.top_k) return 1;
  return a.weights[token * a.top_k + lane_id()];
}

// The batch's ids, as they are, to where its pairs will be.
__device__ inline void load_ids(const DispatchArgs& a, const Outgoing& s) {
#pragma unroll 2
  for (int p = static_cast<int>(threadIdx.x); p < a.tokens * a.top_k; p += kSmallThreads) {
    s.pairs[p] = static_cast<uint32_t>(a.slots[p]);
  }
}

// Ids become pairs. By all threads; each warp takes as many whole tokens at a time as it has lanes.
__device__ inline void make_pairs(const DispatchArgs& a, uint32_t epoch, const Outgoing& s) {
  const int step = 32 / a.top_k * a.top_k;
  const int token = lane_id() / a.top_k;
  const int end = a.tokens * a.top_k;
#pragma unroll 1
  for (int base = warp_id() * step; base < end; base += kSmallWarps * step) {
    const int p = base + lane_id();
    const bool mine = lane_id() < step && p < end;
    const uint32_t pair = mine ? checked_pair(a, p, static_cast<int>(s.pairs[p]), epoch) : kNoPair;
    const bool leads = leads_rank(pair, token);
    if (mine) s.pairs[p] = leads ? pair | kLeads : pair;
  }
}

// Counts the pairs of tokens [begin, end); by all threads.
__device__ inline void count_pairs(const DispatchArgs& a, int begin, int end, const Outgoing& s) {
#pragma unroll 1
  for (int base = begin * a.top_k + 32 * warp_id(); base < end * a.top_k; base += kSmallThreads) {
    const int p = base + lane_id();
    const uint32_t pair = p < end * a.top_k ? s.pairs[p] : kNoPair;
    const bool leads = pair != kNoPair && (pair & kLeads) != 0;
    const uint32_t same = __match_any_sync(kFullWarp, leads ? pair >> 16 : kNone16);
    if (pair != kNoPair) atomicAdd(&s.counts[pair & (kLeads - 1)], 1U);
    if (leads && (same & ((1U << lane_id()) - 1)) == 0) {
      atomicAdd(&s.counts[a.group.shape.num_slots + static_cast<int>(pair >> 16)],
                static_cast<uint32_t>(__popc(same)));
    }
  }
}

__device__ inline void clear_counts(const DispatchArgs& a, const Outgoing& s) {
  for (int c = static_cast<int>(threadIdx.x); c < a.group.shape.columns(); c += kSmallThreads) {
    s.counts[c] = 0;
  }
}

// The batch's counts to all ranks, a block a rank: from the last on, as the first ones have tokens.
__device__ inline void send_small_counts(const DispatchArgs& a, uint32_t epoch, const Outgoing& s) {
  const GroupView& g = a.group;
  int rank = a.push_blocks - 1 - static_cast<int>(blockIdx.x);
  if (rank >= g.shape.num_ranks) return;
  count_pairs(a, 0, a.tokens, s);
  __syncthreads();
#pragma unroll 1
  for (; rank < g.shape.num_ranks; rank += a.push_blocks) {
    if (!is_active(rank)) continue;
    uint64_t* const cells = cells_of(g, g.peers[rank], g.rank, epoch);
#pragma unroll 1
    for (int c = static_cast<int>(threadIdx.x); c < g.shape.columns(); c += kSmallThreads) {
      ptx::store_relaxed(cells + c, cell_of(epoch, s.counts[c]));
    }
  }
  __syncthreads();
  clear_counts(a, s);  // for the numbers of this block's tokens
  __syncthreads();
}

// The numbers of the pairs of this block's tokens: what the tokens before them have is counted up
// to each in turn. By all threads.
__device__ inline void number_pairs(const DispatchArgs& a, Deal deal, const Outgoing& s) {
  int counted = 0;  // tokens
  int last = -1;
#pragma unroll 1
  for (; deal.row < a.tokens; deal.next()) {
    if (deal.row == last) continue;
    last = deal.row;
    count_pairs(a, counted, last, s);
    counted = last;
    __syncthreads();
    if (warp_id() == 0) {
      const int p = last * a.top_k + lane_id();
      const uint32_t pair = lane_id() < a.top_k ? s.pairs[p] : kNoPair;
      const uint32_t same = __match_any_sync(kFullWarp, pair == kNoPair ? pair : pair & ~kLeads);
      if (pair != kNoPair) {
        const uint32_t index =
            s.counts[pair & (kLeads - 1)] + __popc(same & ((1U << lane_id()) - 1));
        s.numbers[p] = index | s.counts[a.group.shape.num_slots + static_cast<int>(pair >> 16)]
                                   << 16;
      }
    }
    __syncthreads();
  }
}

// A token's pairs, spread over the lanes of a warp: lane k has the k-th.
struct SmallRoute {
  int slot = -1;  // of its rank
  int rank = -1;  // -1: no pair
  int index = 0;  // among the rows for the slot
  int row = -1;   // among the rows for the rank; -1: not the token's first slot there
};

__device__ inline SmallRoute small_route(const DispatchArgs& a, int token, const Outgoing& s) {
  SmallRoute route;
  if (lane_id() >= a.top_k) return route;
  const uint32_t pair = s.pairs[token * a.top_k + lane_id()];
  if (pair == kNoPair) return route;
  const uint32_t number = s.numbers[token * a.top_k + lane_id()];
  route.rank = static_cast<int>(pair >> 16);
  route.slot = static_cast<int>(pair & (kLeads - 1)) - route.rank * a.group.shape.slots_per_rank();
  route.index = static_cast<int>(number & 0xffffU);
  if ((pair & kLeads) != 0) route.row = static_cast<int>(number >> 16);
  return route;
}

// The header of the token at the rank of lane `leader`, by a warp. All top_k entries are written,
// those beyond the copies as padding, so that the receiver can wait for all at once.
__device__ inline void send_header(const DispatchArgs& a, int token, uint32_t epoch,
                                   const SmallRoute& route, float weight, int leader) {
  const GroupView& g = a.group;
  const int lane = lane_id();
  const int to = __shfl_sync(kFullWarp, route.rank, leader);
  const int to_row = __shfl_sync(kFullWarp, route.row, leader);
  const uint32_t same = __ballot_sync(kFullWarp, route.rank == to);
  const uint32_t lower = __ballot_sync(kFullWarp, route.row >= 0 && route.rank < to);
  Packet* const header = header_of(g, g.peers[to], g.rank, epoch, to_row);
  const uint32_t before = (1U << lane) - 1;
  const int place =
      route.rank == to ? __popc(same & before) : __popc(same) + __popc(~same & before);
  if (lane < a.top_k) {
    ptx::store_relaxed(header + 1 + place,
                       copy_packet(route.slot & 0xffff, lane, route.index, weight, epoch));
  }
  if (lane == 0) {
    ptx::store_relaxed(header, head_packet(token, __popc(same), __popc(lower), epoch));
    if (to == g.rank) g.own_row[token] = to_row;
  }
}

// Headers of this block's tokens, by the block that has a token's first part; `weight` is that of
// its first token.
__device__ inline void send_headers(const DispatchArgs& a, Deal deal, float weight, uint32_t epoch,
                                    const Outgoing& s) {
  const int first = deal.row;
  int turn = kSmallWarps - 1 - warp_id();  // by the last warps, which may have less of a row
#pragma unroll 1
  for (; deal.row < a.tokens; deal.next()) {
    if (deal.part != 0) continue;
    const int token = deal.row;
    const SmallRoute route = small_route(a, token, s);
#pragma unroll 1
    for (uint32_t left = __ballot_sync(kFullWarp, route.row >= 0); left != 0;
         left &= left - 1, --turn) {
      if (turn % kSmallWarps != 0) continue;
      send_header(a, token, epoch, route, token == first ? weight : load_weight(a, token),
                  __ffs(static_cast<int>(left)) - 1);
    }
    const bool has_own = __any_sync(kFullWarp, route.rank == a.group.rank);
    if (threadIdx.x == 0 && !has_own) a.group.own_row[token] = -1;
  }
}

// Whether own rows travel as others do, which is quicker where blocks have no more than one part
// each: their receivers need not wait for headers to know them. Otherwise they are read where they
// are.
__device__ inline bool own_rows_travel(const DispatchArgs& a) {
  return a.tokens * a.parts.count <= a.push_blocks;
}

// Sends this block's parts of rows; `input` is what was loaded of the first one.
template <Payload kPayload>
__device__ inline void send_rows(const DispatchArgs& a, Deal deal, Input<kPayload> input,
                                 uint32_t epoch, const Outgoing& s) {
  const GroupView& g = a.group;
  const int vectors = lines_of_row(a.row_bytes) * kVectorsOfLine;
#pragma unroll 1
  while (deal.row < a.tokens) {
    const SmallRoute route = small_route(a, deal.row, s);
    const int v = vector_of_part(a.parts, deal.part, vectors);
    float scale;
    const uint4 data = make_vector<kPayload>(input, scale);
    deal.next();
    if (deal.row < a.tokens) {  // before stores fill the way to memory
      input = load_part<kPayload>(a, deal.row, vector_of_part(a.parts, deal.part, vectors));
    }
    const bool travels = route.row >= 0 && (route.rank != g.rank || own_rows_travel(a));
#pragma unroll 1
    for (uint32_t left = __ballot_sync(kFullWarp, travels); left != 0; left &= left - 1) {
      const int leader = __ffs(static_cast<int>(left)) - 1;
      const int rank = __shfl_sync(kFullWarp, route.rank, leader);
      const int row = __shfl_sync(kFullWarp, route.row, leader);
      if (v >= vectors) continue;
      const Lines to = small_row(a, g.peers[rank], g.rank, epoch, row);
      send_vector(to, v, data, epoch);
      if (a.scale_columns != 0 && ends_line(v)) {
        ptx::store_relaxed(to.scale(v / kVectorsOfLine), cell_of(epoch, __float_as_uint(scale)));
      }
    }
  }
}

}  // namespace wideep::alltoall::device
