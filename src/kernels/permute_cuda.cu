// The permutation is a stable counting sort. A warp has a segment of pairs and a counter of its own
// for each group: it counts its pairs, learns how many of each group come before its segment, and
// places its pairs 32 at a time, in order. One block does it all for a small batch; else the counts
// of blocks go through memory, in three launches.
#include <algorithm>

#include "kernels/cuda_ops.h"
#include "kernels/cuda_rows.cuh"
#include "kernels/launch.cuh"

namespace wideep::kernels::cuda {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffU;
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kRounds = 8;  // of 32 pairs, at most: a warp's segment
constexpr int kPairsOfBlock = kWarps * kRounds * kWarp;

struct Permutation {
  const int32_t* ids;
  int num_pairs;
  int group_begin;
  int num_groups;
  int alignment;
  int group_rows;  // 0: as many as a group has
  int rounds;      // of a segment
  int max_rows;
  int* offsets;
  int* rows;
  int* pairs;
  int* group_of_row;
  int* group_counts;  // [num_groups], or null
  int* counts;        // [blocks, num_groups]; of several blocks

  // -1 for pairs of other groups, and beyond the last.
  __device__ int group(int64_t pair) const {
    if (pair >= num_pairs) return -1;
    const int32_t id = ids[pair];
    const int group = id - group_begin;
    return id >= 0 && group >= 0 && group < num_groups ? group : -1;
  }
  __device__ int room(int count) const {
    device_check(group_rows == 0 || count <= group_rows);
    return group_rows > 0 ? group_rows : (count + alignment - 1) / alignment * alignment;
  }
};

// A warp's pairs: this lane's of round i is begin + i * 32 + lane.
struct Segment {
  int64_t begin;
  int groups[kRounds];
  int* counters;  // [num_groups] in shared memory
};

// Reads the groups, and makes counters [kWarps, num_groups] what each warp has of each group.
__device__ Segment count_pairs(const Permutation& p, int* counters) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  Segment own;
  own.begin = (static_cast<int64_t>(blockIdx.x) * kWarps + warp) * p.rounds * kWarp;
  own.counters = counters + warp * p.num_groups;
#pragma unroll
  for (int i = 0; i < kRounds; ++i) {
    own.groups[i] = i < p.rounds ? p.group(own.begin + i * kWarp + lane) : -1;
  }
  for (int i = threadIdx.x; i < kWarps * p.num_groups; i += kThreads) counters[i] = 0;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kRounds; ++i) {
    if (own.groups[i] >= 0) atomicAdd(own.counters + own.groups[i], 1);
  }
  __syncthreads();
  return own;
}

// Counters of a group become the counts of the warps before, from `first` on; returns the sum.
__device__ int scan_warps(int* counters, int num_groups, int group, int first) {
  for (int warp = 0; warp < kWarps; ++warp) {
    int& counter = counters[warp * num_groups + group];
    const int count = counter;
    counter = first;
    first += count;
  }
  return first;
}

// offsets [num_groups + 1] from counts, which may be the same memory. By one warp.
__device__ void scan_groups(const Permutation& p, const int* counts, int* offsets) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int begin = 0;
  for (int first = 0; first < p.num_groups; first += kWarp) {
    const int group = first + lane;
    const int count = group < p.num_groups ? counts[group] : 0;
    const int rows = group < p.num_groups ? p.room(count) : 0;
    if (group < p.num_groups && p.group_counts != nullptr) p.group_counts[group] = count;
    int sum = rows;
    for (int step = 1; step < kWarp; step *= 2) {
      const int before = __shfl_up_sync(kAllLanes, sum, step);
      if (lane >= step) sum += before;
    }
    if (group < p.num_groups) offsets[group] = begin + sum - rows;
    begin += __shfl_sync(kAllLanes, sum, kWarp - 1);
  }
  if (lane == 0) offsets[p.num_groups] = begin;
}

// Every row is padding until a pair is placed there.
__device__ void clear_rows(const Permutation& p) {
  const int stride = static_cast<int>(gridDim.x) * kThreads;
  for (int row = static_cast<int>(blockIdx.x * kThreads + threadIdx.x); row < p.max_rows;
       row += stride) {
    p.pairs[row] = -1;
    if (p.group_of_row != nullptr) p.group_of_row[row] = -1;
  }
}

// Counters hold the next row of each warp and group.
__device__ void place_pairs(const Permutation& p, const Segment& own) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int i = 0; i < kRounds; ++i) {
    if (i == p.rounds) break;
    const int64_t pair = own.begin + i * kWarp + lane;
    const int group = own.groups[i];
    const unsigned peers = __match_any_sync(kAllLanes, group);
    const int rank = __popc(peers & ((1U << lane) - 1));
    const int row = group >= 0 ? own.counters[group] + rank : -1;
    __syncwarp();
    if (group >= 0 && rank == 0) own.counters[group] += __popc(peers);
    __syncwarp();
    if (pair < p.num_pairs) p.rows[pair] = row;
    if (row >= 0) {
      p.pairs[row] = static_cast<int>(pair);
      if (p.group_of_row != nullptr) p.group_of_row[row] = group;
    }
  }
}

__global__ void __launch_bounds__(kThreads) permute_kernel(Permutation p) {
  follow_previous_kernel();
  extern __shared__ int shared[];  // counters [kWarps, num_groups], offsets [num_groups + 1]
  int* offsets = shared + kWarps * p.num_groups;
  clear_rows(p);
  const Segment own = count_pairs(p, shared);
  for (int group = threadIdx.x; group < p.num_groups; group += kThreads) {
    offsets[group] = scan_warps(shared, p.num_groups, group, 0);
  }
  __syncthreads();
  if (threadIdx.x < kWarp) scan_groups(p, offsets, offsets);
  __syncthreads();
  for (int group = threadIdx.x; group <= p.num_groups; group += kThreads) {
    p.offsets[group] = offsets[group];
  }
  for (int i = threadIdx.x; i < kWarps * p.num_groups; i += kThreads) {
    shared[i] += offsets[i % p.num_groups];
  }
  __syncthreads();
  place_pairs(p, own);
}

__global__ void __launch_bounds__(kThreads) permute_count_kernel(Permutation p) {
  follow_previous_kernel();
  extern __shared__ int shared[];
  clear_rows(p);
  if (static_cast<int64_t>(blockIdx.x) * kPairsOfBlock >= p.num_pairs) return;
  count_pairs(p, shared);
  for (int group = threadIdx.x; group < p.num_groups; group += kThreads) {
    p.counts[static_cast<int64_t>(blockIdx.x) * p.num_groups + group] =
        scan_warps(shared, p.num_groups, group, 0);
  }
}

// Counts of blocks become the counts of the blocks before, and the totals offsets.
__global__ void __launch_bounds__(kMaxPermutationGroups)
    permute_scan_kernel(Permutation p, int blocks) {
  follow_previous_kernel();
  __shared__ int totals[kMaxPermutationGroups];
  const int group = static_cast<int>(threadIdx.x);
  if (group < p.num_groups) {
    int sum = 0;
#pragma unroll 8
    for (int block = 0; block < blocks; ++block) {
      int& counter = p.counts[static_cast<int64_t>(block) * p.num_groups + group];
      const int count = counter;
      counter = sum;
      sum += count;
    }
    totals[group] = sum;
  }
  __syncthreads();
  if (threadIdx.x < kWarp) scan_groups(p, totals, p.offsets);
}

__global__ void __launch_bounds__(kThreads) permute_place_kernel(Permutation p) {
  follow_previous_kernel();
  extern __shared__ int shared[];
  const Segment own = count_pairs(p, shared);
  for (int group = threadIdx.x; group < p.num_groups; group += kThreads) {
    scan_warps(
        shared, p.num_groups, group,
        p.offsets[group] + p.counts[static_cast<int64_t>(blockIdx.x) * p.num_groups + group]);
  }
  __syncthreads();
  place_pairs(p, own);
}

constexpr int kRowThreads = 128;  // 7 vectors of each for 7168 columns
constexpr int kRowVector = 8;
constexpr int kRowUnroll = 4;
constexpr int kCombineUnroll = 8;  // rows in flight: all of a token for most models
constexpr int kGatherBlocksPerSm = 12;

template <typename X, typename Y>
struct Gather {
  Rows<const X> x;
  Rows<Y> y;
  const int* pairs;
  const float* scales;
  int64_t num_rows;
  int64_t num_tokens;
  int64_t columns;
  int top_k;
};

// A block takes a row at a time: there may be many more rows than ones to copy.
template <int kVector, typename X, typename Y>
__global__ void __launch_bounds__(kRowThreads) gather_kernel(Gather<X, Y> g) {
  follow_previous_kernel();
  constexpr int kStep = kRowThreads * kVector;
  for (int64_t row = blockIdx.x; row < g.num_rows; row += gridDim.x) {
    const int pair = g.pairs[row];
    if (pair < 0) continue;
    const int token = pair / g.top_k;
    device_check(token < g.num_tokens);
    const float scale = g.scales != nullptr ? g.scales[pair] : 1;
    for (int64_t first = threadIdx.x * kVector; first < g.columns; first += kStep * kRowUnroll) {
      Packed<X, kVector> packed[kRowUnroll];
#pragma unroll
      for (int u = 0; u < kRowUnroll; ++u) {
        if (first + u * kStep < g.columns) {
          packed[u] = load_packed<kVector>(g.x.at(token, first + u * kStep));
        }
      }
#pragma unroll
      for (int u = 0; u < kRowUnroll; ++u) {
        if (first + u * kStep >= g.columns) break;
        float v[kVector];
        widen(packed[u], v);
#pragma unroll
        for (int i = 0; i < kVector; ++i) v[i] *= scale;
        store(v, g.y.at(row, first + u * kStep));
      }
    }
  }
}

template <typename X, typename Y>
struct Combine {
  Rows<const X> x;
  Rows<Y> y;
  Rows<const Y> residual;
  const int* rows;
  const float* weights;
  int64_t num_rows;
  int top_k;

  template <int kCount>
  __device__ void run(int64_t token, int64_t column) const {
    float sum[kCount] = {};
    for (int first = 0; first < top_k; first += kCombineUnroll) {
      int row[kCombineUnroll];
      float weight[kCombineUnroll];
      Packed<X, kCount> packed[kCombineUnroll];
#pragma unroll
      for (int u = 0; u < kCombineUnroll; ++u) {
        const int64_t pair = token * top_k + first + u;
        row[u] = first + u < top_k ? rows[pair] : -1;
        weight[u] = first + u < top_k && weights != nullptr ? weights[pair] : 1;
      }
#pragma unroll
      for (int u = 0; u < kCombineUnroll; ++u) {
        device_check(row[u] < num_rows);
        if (row[u] >= 0) packed[u] = load_packed<kCount>(x.at(row[u], column));
      }
#pragma unroll
      for (int u = 0; u < kCombineUnroll; ++u) {
        if (row[u] < 0) continue;
        float v[kCount];
        widen(packed[u], v);
        // Not fused: the bits of the CPU's sum.
#pragma unroll
        for (int i = 0; i < kCount; ++i) sum[i] = __fadd_rn(sum[i], __fmul_rn(weight[u], v[i]));
      }
    }
    if (residual.data != nullptr) {
      float v[kCount];
      load(residual.at(token, column), v);
#pragma unroll
      for (int i = 0; i < kCount; ++i) sum[i] += v[i];
    }
    store(sum, y.at(token, column));
  }
};

}  // namespace

void make_permutation(Stream& stream, const PermutationParams& params) {
  const auto num_pairs = static_cast<int64_t>(params.ids.size());
  const int64_t max_rows =
      params.group_rows > 0 ? int64_t{params.num_groups} * params.group_rows
                            : max_permuted_rows(num_pairs, params.num_groups, params.row_alignment);
  CHECK(params.num_groups >= 0 && params.num_groups <= kMaxPermutationGroups);
  CHECK(params.row_alignment >= 1 && max_rows < (int64_t{1} << 30));
  Permutation p = {
      .ids = params.ids.data(),
      .num_pairs = static_cast<int>(num_pairs),
      .group_begin = params.group_begin,
      .num_groups = params.num_groups,
      .alignment = params.row_alignment,
      .group_rows = params.group_rows,
      .rounds = static_cast<int>(
          std::min<int64_t>(kRounds, (num_pairs + kWarps * kWarp - 1) / (kWarps * kWarp))),
      .max_rows = static_cast<int>(max_rows),
      .offsets = params.offsets,
      .rows = params.rows,
      .pairs = params.pairs,
      .group_of_row = params.group_of_row,
      .group_counts = params.counts,
      .counts = nullptr,
  };
  const size_t shared = ((kWarps + 1) * params.num_groups + 1) * sizeof(int);
  if (num_pairs <= kPairsOfBlock) {
    launch_kernel(stream, {1, kThreads, shared}, permute_kernel, p);
  } else {
    const auto blocks = static_cast<int>((num_pairs + kPairsOfBlock - 1) / kPairsOfBlock);
    const auto clearing = static_cast<int>((max_rows + kPairsOfBlock - 1) / kPairsOfBlock);
    p.counts = stream.context().workspace<int>(int64_t{blocks} * params.num_groups).data();
    launch_kernel(stream, {std::max(blocks, clearing), kThreads, shared}, permute_count_kernel, p);
    launch_kernel(stream, {1, kMaxPermutationGroups}, permute_scan_kernel, p, blocks);
    launch_kernel(stream, {blocks, kThreads, shared}, permute_place_kernel, p);
  }
  check_launch(stream, "make_permutation");
}

void gather_rows(Stream& stream, const GatherRowsParams& params) {
  const ConstMatrixView& x = params.x;
  const MatrixView& y = params.y;
  const auto num_rows = static_cast<int64_t>(params.pairs.size());
  CHECK(params.top_k >= 1 && x.columns == y.columns && num_rows <= y.rows);
  if (num_rows == 0) return;
  const bool has_vectors =
      has_aligned_rows(x) && has_aligned_rows(y) && x.columns % kRowVector == 0;
  const int64_t most = int64_t{stream.context().num_sms()} * kGatherBlocksPerSm;
  const auto blocks = static_cast<unsigned>(std::min(num_rows, most));
  with_float_type(x.dtype, [&]<typename X>(X) {
    with_float_type(y.dtype, [&]<typename Y>(Y) {
      const Gather<X, Y> gather = {.x = rows_of<X>(x),
                                   .y = rows_of<Y>(y),
                                   .pairs = params.pairs.data(),
                                   .scales = params.scales,
                                   .num_rows = num_rows,
                                   .num_tokens = x.rows,
                                   .columns = x.columns,
                                   .top_k = params.top_k};
      const auto kernel = has_vectors ? gather_kernel<kRowVector, X, Y> : gather_kernel<1, X, Y>;
      launch_kernel(stream, {blocks, kRowThreads}, kernel, gather);
    });
  });
  check_launch(stream, "gather_rows");
}

void combine_rows(Stream& stream, const CombineRowsParams& params) {
  const ConstMatrixView& x = params.x;
  const MatrixView& y = params.y;
  CHECK(params.top_k >= 1 && x.columns == y.columns);
  CHECK(y.rows * params.top_k == static_cast<int64_t>(params.rows.size()));
  const ConstMatrixView& residual = params.residual;
  CHECK(residual.data == nullptr || (residual.dtype == y.dtype && residual.rows == y.rows));
  const bool has_vectors = has_aligned_rows(x) && has_aligned_rows(y) && has_aligned_rows(residual);
  with_float_type(x.dtype, [&]<typename X>(X) {
    with_float_type(y.dtype, [&]<typename Y>(Y) {
      const Combine<X, Y> op = {.x = rows_of<X>(x),
                                .y = rows_of<Y>(y),
                                .residual = rows_of<Y>(residual),
                                .rows = params.rows.data(),
                                .weights = params.weights,
                                .num_rows = x.rows,
                                .top_k = params.top_k};
      map_rows<kRowVector>(stream, "combine_rows", y.rows, y.columns, has_vectors, op);
    });
  });
}

}  // namespace wideep::kernels::cuda
