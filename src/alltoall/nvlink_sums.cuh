// The sums of combine, in the orders that alltoall.h promises: products and sums in fp32, each
// rounded, as kernels::combine_rows makes them. A thread has kVectors vectors of 8 columns.
#pragma once

#include <cstdint>

#include "alltoall/nvlink_device.cuh"
#include "alltoall/quantize.cuh"

namespace wideep::alltoall::device {

template <int kVectors>
struct Sum {
  float column[kVectors][8] = {};

  __device__ void add(int v, const uint4& row, float weight) {
    const uint32_t words[4] = {row.x, row.y, row.z, row.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack_bf16(words[i]);
      column[v][2 * i] = __fadd_rn(column[v][2 * i], __fmul_rn(weight, pair.x));
      column[v][2 * i + 1] = __fadd_rn(column[v][2 * i + 1], __fmul_rn(weight, pair.y));
    }
  }
  __device__ uint4 rounded(int v) const {
    const float* c = column[v];
    return {pack_bf16(c[0], c[1]), pack_bf16(c[2], c[3]), pack_bf16(c[4], c[5]),
            pack_bf16(c[6], c[7])};
  }
};

// Where the rows of the copies of one received row are, spread over the lanes of each warp.
struct CopyLane {
  const std::byte* row = nullptr;
  float weight = 0;
  int k = 0;
};

__device__ inline CopyLane load_copy(const CombineArgs& a, int64_t landed, int copies) {
  CopyLane lane;
  if (lane_id() < copies) {
    const Copy copy = a.group.copies[landed * a.group.shape.top_k + lane_id()];
    lane.row = a.rows + copy.row * a.row_stride;
    lane.weight = copy.weight;
    lane.k = copy.k;
  }
  return lane;
}

__device__ inline const std::byte* row_of_lane(const CopyLane& copy, int lane) {
  return reinterpret_cast<const std::byte*>(
      __shfl_sync(kFullWarp, reinterpret_cast<uint64_t>(copy.row), lane));
}

// The vector of a row that this thread has `i`-th; `index(i)` is its place in the row.
template <int kVectors, typename Index>
__device__ inline void load_vectors(const std::byte* row, int vectors, const Index& index,
                                    uint4 (&data)[kVectors]) {
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int v = index(i);
    data[i] = {0, 0, 0, 0};
    if (v < vectors) data[i] = ptx::load_row(row + int64_t{kVectorBytes} * v);
  }
}

// sum += weight x row over the copies, in the order of k. By whole warps.
template <int kVectors, typename Index>
__device__ inline void add_copies(const CopyLane& copy, int copies, int vectors, const Index& index,
                                  Sum<kVectors>& sum) {
  int lane = 0;
  for (; lane + 1 < copies; lane += 2) {
    uint4 first[kVectors];
    uint4 second[kVectors];
    load_vectors(row_of_lane(copy, lane), vectors, index, first);
    load_vectors(row_of_lane(copy, lane + 1), vectors, index, second);
    const float w0 = __shfl_sync(kFullWarp, copy.weight, lane);
    const float w1 = __shfl_sync(kFullWarp, copy.weight, lane + 1);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      sum.add(i, first[i], w0);
      sum.add(i, second[i], w1);
    }
  }
  if (lane < copies) {
    uint4 last[kVectors];
    load_vectors(row_of_lane(copy, lane), vectors, index, last);
    const float weight = __shfl_sync(kFullWarp, copy.weight, lane);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) sum.add(i, last[i], weight);
  }
}

// The ranks that a token gets rows back from, spread over the lanes of a warp: lane i has the i-th
// by rank (reduced) or the k = i-th pair's (exact); -1: none.
struct Returns {
  int count = 0;      // of lanes that may have one
  int rank = -1;      // this lane's
  float weight = 1;   // what its row is multiplied by
  int own_copy = -1;  // exact: which copy of this rank's own row it is
};

// A token's pair, as it was loaded; lane k has the k-th.
struct TokenPair {
  int slot = -1;
  float weight = 1;
};

__device__ inline TokenPair load_pair(const CombineArgs& a, int token, int end) {
  TokenPair pair;
  if (token >= end || lane_id() >= a.top_k) return pair;
  const int64_t index = static_cast<int64_t>(token) * a.top_k + lane_id();
  pair.slot = a.slots[index];
  if (a.exact && a.weights != nullptr) pair.weight = a.weights[index];
  return pair;
}

__device__ inline Returns make_returns(const CombineArgs& a, const TokenPair& pair) {
  const GroupView& g = a.group;
  const int lane = lane_id();
  Returns returns;
  returns.weight = pair.weight;
  int rank = pair.slot < 0 ? -1 : pair.slot / g.shape.slots_per_rank();
  if (rank >= 0 && !is_active(rank)) rank = -1;
  if (a.exact) {
    const uint32_t own = __ballot_sync(kFullWarp, rank == g.rank);
    if (rank == g.rank) returns.own_copy = __popc(own & ((1U << lane) - 1));
    returns.rank = rank;
    returns.count = a.top_k;
    return returns;
  }
  // The smallest rank above the last one, until there is none.
  int last = -1;
  while (returns.count < a.top_k) {
    const uint32_t candidate = rank > last ? static_cast<uint32_t>(rank) : 0xffffU;
    const uint32_t next = __reduce_min_sync(kFullWarp, candidate);
    if (next == 0xffffU) break;
    last = static_cast<int>(next);
    if (lane == returns.count) returns.rank = last;
    ++returns.count;
  }
  return returns;
}

// Adds the residual, rounds and writes this thread's columns of a token.
template <int kVectors, typename Index>
__device__ inline void write_token(const CombineArgs& a, int token, int vectors, const Index& index,
                                   Sum<kVectors>& sum) {
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int v = index(i);
    if (v >= vectors) continue;
    const int64_t offset = int64_t{kVectorBytes} * v;
    if (a.residual != nullptr) {
      sum.add(i, ptx::load_input(a.residual + token * a.residual_stride + offset), 1.0F);
    }
    ptx::store_row(a.out + token * a.out_stride + offset, sum.rounded(i));
  }
}

}  // namespace wideep::alltoall::device
