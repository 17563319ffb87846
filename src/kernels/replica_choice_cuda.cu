// The split of a batch is the work of one block: its threads sum the counts, split evenly and
// balance along the forest of ranks; where an expert has too little for that, one warp finds the
// flow (flow_split.h); and all write where the experts are cut. Tables are copied to shared memory
// while the counts are read.
#include <cuda_pipeline_primitives.h>

#include <algorithm>

#include "kernels/cuda_ops.h"
#include "kernels/cuda_rows.cuh"
#include "kernels/replica_choice.h"
#include "kernels/shared_memory.cuh"
#include "kernels/split_steps.h"

namespace wideep::kernels {
namespace {

constexpr unsigned kAllLanes = 0xffffffffU;
constexpr int kSplitThreads = 512;
constexpr int kMapThreadsOfBlock = 256;

struct WarpLanes {
  static constexpr int kCount = 32;
  __device__ int index() const { return static_cast<int>(threadIdx.x) % kCount; }
  __device__ uint32_t ballot(bool value) const { return __ballot_sync(kAllLanes, value); }
  template <typename T>
  __device__ T shuffle(T value, int lane) const {
    return __shfl_sync(kAllLanes, value, lane);
  }
  __device__ void sync() const { __syncwarp(); }
};

struct Split {
  ReplicaShape shape;
  ReplicaTables at;
  const int32_t* tables;
  const int32_t* counts;
  int32_t* begin;
  int32_t* ends;
  int rank;
};

// Calls body(i) for i in [0, count), by all threads of the block.
template <typename Body>
__device__ void for_each(int count, const Body& body) {
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kSplitThreads) body(i);
}

// The counts of all ranks into totals and before; threads take an expert of some of the ranks. The
// caller synchronizes.
__device__ void sum_counts(const Split& p, const SplitScratch& s) {
  const int num_experts = p.shape.num_experts;
  for_each(2 * num_experts, [&](int i) { s.totals[i] = 0; });  // and before
  __syncthreads();
  const int step = num_experts < kSplitThreads ? kSplitThreads / num_experts : 1;
  for_each(num_experts * step, [&](int i) {
    add_counts(p.counts, p.shape, p.rank, i % num_experts, i / num_experts, step, s);
  });
}

// The tokens of the ranks. So many lanes take a rank, a power of two, that each has a slot or more.
__device__ void sum_ranks(const Split& p, const int32_t* tables, const SplitScratch& s) {
  int bits = 5;
  while (bits > 0 && 1 << (bits - 1) >= p.at.slots_per_rank) --bits;
  const int lanes = 1 << bits;
  const int lane = static_cast<int>(threadIdx.x) & (lanes - 1);
  for (int first = 0; first < p.shape.num_ranks; first += kSplitThreads >> bits) {
    const int rank = first + (static_cast<int>(threadIdx.x) >> bits);
    const bool is_rank = rank < p.shape.num_ranks;
    RankSums sums;
    if (is_rank) sums = sum_slots(p.at, tables, rank, lane, lanes, s);
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
      sums.all += __shfl_xor_sync(kAllLanes, sums.all, distance);
      sums.own += __shfl_xor_sync(kAllLanes, sums.own, distance);
    }
    if (is_rank && lane == 0) set_rank(rank, sums, s);
  }
}

template <int kWords>
__global__ void __launch_bounds__(kSplitThreads) split_flow_kernel(Split p) {
  extern __shared__ int4 shared[];
  const auto* tables = reinterpret_cast<const int32_t*>(shared);
  const SplitScratch s(reinterpret_cast<int32_t*>(shared) + p.at.size, p.shape);
  for_each(p.at.size / 4, [&](int i) {
    __pipeline_memcpy_async(shared + i, reinterpret_cast<const int4*>(p.tables) + i, sizeof(int4));
  });
  __pipeline_commit();
  sum_counts(p, s);
  __pipeline_wait_prior(0);
  __syncthreads();
  for_each(p.shape.num_experts, [&](int e) { start_even(p.at, tables, e, s); });
  __syncthreads();
  sum_ranks(p, tables, s);
  __syncthreads();
  for_each(p.shape.num_ranks + 1, [&](int i) { weigh_part(p.at, tables, p.shape, i, s); });
  __syncthreads();
  bool is_short = false;
  for_each(p.shape.num_experts, [&](int e) { is_short |= balance_expert(p.at, tables, e, s); });
  if (__syncthreads_or(is_short ? 1 : 0) != 0) {
    if (threadIdx.x < WarpLanes::kCount) {
      WarpLanes lanes;
      FlowSplit<kWords, WarpLanes>(p.at.graph(tables, p.shape), s.state, lanes).run();
    }
    __syncthreads();
  }
  for_each(p.shape.num_experts, [&](int e) {
    p.begin[e] = s.before[e];
    cut_expert(p.at, tables, e, s.state.place_tokens, p.ends);
  });
}

__global__ void __launch_bounds__(kSplitThreads) split_quota_kernel(Split p) {
  extern __shared__ int4 shared[];
  const SplitScratch s(reinterpret_cast<int32_t*>(shared), p.shape);
  sum_counts(p, s);
  __syncthreads();
  for_each(p.shape.num_experts, [&](int e) {
    p.begin[e] = s.before[e];
    cut_by_quota(p.at, p.tables, e, s.totals[e], p.ends);
  });
}

__global__ void __launch_bounds__(kMapThreadsOfBlock)
    choose_slots_kernel(SlotChoice choice, int num_pairs, int num_experts, const int32_t* ids,
                        const int* rows, const int* offsets, int32_t* slots) {
  const int pair = static_cast<int>(blockIdx.x * kMapThreadsOfBlock + threadIdx.x);
  if (pair >= num_pairs) return;
  const int expert = ids[pair];
  device_check(expert < num_experts);
  if (expert < 0) {
    slots[pair] = -1;
  } else {
    slots[pair] = choice.slot_of(expert, rows == nullptr ? 0 : rows[pair] - offsets[expert]);
  }
}

__global__ void __launch_bounds__(kMapThreadsOfBlock)
    add_row_sums_kernel(const int32_t* rows, int num_rows, int columns, int32_t* counts) {
  const int column = static_cast<int>(blockIdx.x * kMapThreadsOfBlock + threadIdx.x);
  if (column >= columns) return;
  int sum = 0;
#pragma unroll 8
  for (int row = 0; row < num_rows; ++row) {
    sum += rows[static_cast<int64_t>(row) * columns + column];
  }
  counts[column] += sum;
}

__global__ void __launch_bounds__(kMapThreadsOfBlock)
    count_ids_kernel(const int32_t* ids, int count, int num_counts, int32_t* counts) {
  const int i = static_cast<int>(blockIdx.x * kMapThreadsOfBlock + threadIdx.x);
  if (i >= count || ids[i] < 0) return;
  device_check(ids[i] < num_counts);
  atomicAdd(counts + ids[i], 1);
}

unsigned blocks_for(int64_t count) {
  return static_cast<unsigned>((count + kMapThreadsOfBlock - 1) / kMapThreadsOfBlock);
}

template <int kWords>
void launch_flow(Stream& stream, const Split& split, int64_t bytes) {
  allow_shared_memory(split_flow_kernel<kWords>);
  split_flow_kernel<kWords>
      <<<1, kSplitThreads, static_cast<size_t>(bytes), stream_of(stream)>>>(split);
}

}  // namespace

void split_batch(Stream& stream, const SplitBatchParams& params) {
  CHECK(stream.is_cuda());
  const ReplicaShape& shape = params.shape;
  CHECK(shape.num_ranks <= kMaxSplitRanks && params.rank < shape.num_ranks);
  const int64_t bytes = split_bytes(shape);
  CHECK(bytes <= kMaxSplitBytes);
  const Split split = {
      shape,      ReplicaTables::of(shape), params.tables, params.counts, params.begin, params.ends,
      params.rank};
  if (params.rule == SplitRule::kQuota) {
    const auto sums = 2 * static_cast<size_t>(shape.num_experts) * sizeof(int32_t);
    split_quota_kernel<<<1, kSplitThreads, sums, stream_of(stream)>>>(split);
  } else if (shape.rank_words() == 1) {
    launch_flow<1>(stream, split, bytes);
  } else if (shape.rank_words() == 2) {
    launch_flow<2>(stream, split, bytes);
  } else {
    launch_flow<3>(stream, split, bytes);
  }
  check_launch(stream, "split_batch");
}

void choose_slots(Stream& stream, const ChooseSlotsParams& params) {
  CHECK(stream.is_cuda());
  if (params.ids.empty()) return;
  const bool has_replicas = params.shape.num_slots > params.shape.num_experts;
  CHECK(!has_replicas || (params.rows != nullptr && params.offsets != nullptr));
  CHECK((params.begin == nullptr) == (params.ends == nullptr));
  const SlotChoice choice = {ReplicaTables::of(params.shape), params.tables, params.begin,
                             params.ends, params.rank};
  const auto num_pairs = static_cast<int>(std::ssize(params.ids));
  choose_slots_kernel<<<blocks_for(num_pairs), kMapThreadsOfBlock, 0, stream_of(stream)>>>(
      choice, num_pairs, params.shape.num_experts, params.ids.data(), params.rows, params.offsets,
      params.slots);
  check_launch(stream, "choose_slots");
}

void add_row_sums(Stream& stream, const int32_t* rows, int num_rows, std::span<int32_t> counts) {
  CHECK(stream.is_cuda());
  if (counts.empty()) return;
  add_row_sums_kernel<<<blocks_for(std::ssize(counts)), kMapThreadsOfBlock, 0, stream_of(stream)>>>(
      rows, num_rows, static_cast<int>(std::ssize(counts)), counts.data());
  check_launch(stream, "add_row_sums");
}

void count_ids(Stream& stream, std::span<const int32_t> ids, std::span<int32_t> counts) {
  CHECK(stream.is_cuda());
  cudaMemsetAsync(counts.data(), 0, counts.size_bytes(), stream_of(stream));
  if (!ids.empty()) {
    count_ids_kernel<<<blocks_for(std::ssize(ids)), kMapThreadsOfBlock, 0, stream_of(stream)>>>(
        ids.data(), static_cast<int>(std::ssize(ids)), static_cast<int>(std::ssize(counts)),
        counts.data());
  }
  check_launch(stream, "count_ids");
}

}  // namespace wideep::kernels
