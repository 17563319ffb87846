// Combine of a small batch, one kernel without fences: sums (exact: copies) travel as packets with
// the epoch in them. A block takes one row at a time, three vectors a thread. Buffers alternate
// with the parity of the epoch; a call ends only when all ranks have come to it, so a rank cannot
// be two calls ahead.
#include "alltoall/nvlink_kernels.h"
#include "alltoall/nvlink_launch.h"
#include "alltoall/nvlink_packets.cuh"
#include "alltoall/nvlink_regime.h"
#include "alltoall/nvlink_sums.cuh"

namespace wideep::alltoall {
namespace {

using namespace device;  // NOLINT: the kernels' own vocabulary

constexpr int kThreads = kSmallCombineThreads;

struct StridedByPlane {
  int thread;  // of the row
  int lanes;
  int outside;  // the index of threads beyond the row
  __device__ int operator()(int i) const { return thread < lanes ? i * lanes + thread : outside; }
};

// Calls body(index, thread) for the parts of a row that this thread has; by whole warps.
template <typename Body>
__device__ void for_each_part(int vectors, const Body& body) {
  const int lanes = packet_lanes(vectors);
  for (int base = 0; base < lanes; base += kThreads) {
    const int thread = base + static_cast<int>(threadIdx.x);
    body(StridedByPlane{thread, lanes, vectors});
  }
}

__device__ Packet* partial_of(const GroupView& g, std::byte* owner, uint32_t epoch, int place,
                              int token) {
  const int64_t row =
      (static_cast<int64_t>(epoch & 1) * g.shape.partials() + place) * g.shape.small_tokens + token;
  return at<Packet>(owner, g.at.small_partials) + row * packets_of_row(g.shape.result_bytes);
}

__device__ void push_row(const CombineArgs& a, int source, int row, int vectors, uint32_t epoch) {
  const GroupView& g = a.group;
  const int64_t landed = static_cast<int64_t>(source) * g.shape.max_tokens + row;
  // All copies that there may be, so that their number need not be known first.
  const CopyLane copy = load_copy(a, landed, a.by_source ? 1 : a.top_k);
  const ReceivedRow received = g.received[landed];
  for_each_part(vectors, [&](const StridedByPlane& index) {
    const auto send = [&](int place, const uint4(&data)[kPlanes]) {
      if (index.thread >= index.lanes) return;
      const Vectors part = {{data[0], data[1], data[2]}};
      send_packets(partial_of(g, g.peers[source], epoch, place, received.token), index.lanes,
                   index.thread, part, epoch);
    };
    uint4 data[kPlanes];
    if (!a.exact) {
      Sum<kPlanes> sum;
      add_copies(copy, received.copies, vectors, index, sum);
#pragma unroll
      for (int i = 0; i < kPlanes; ++i) data[i] = sum.rounded(i);
      send(received.partial, data);
      return;
    }
    for (int c = 0; c < received.copies; ++c) {
      load_vectors(row_of_lane(copy, c), vectors, index, data);
      send(__shfl_sync(kFullWarp, copy.k, c), data);
    }
  });
}

__device__ void push(const CombineArgs& a, int vectors, uint32_t epoch) {
  const GroupView& g = a.group;
  int item = static_cast<int>(blockIdx.x);
  for (int source = 0; source < g.shape.num_ranks; ++source) {
    if (source == g.rank || !is_active(source)) continue;
    const int rows = g.source_rows[source];
    for (; item < rows; item += gridDim.x) push_row(a, source, item, vectors, epoch);
    item -= rows;
  }
}

// This thread's columns of a token: what came back, in order; false where a rank gave up.
__device__ bool sum_returns(const CombineArgs& a, int token, int vectors, uint32_t epoch,
                            const StridedByPlane& index, const Returns& returns,
                            const CopyLane& copy, int copies, Sum<kPlanes>& sum) {
  const GroupView& g = a.group;
  bool ok = true;
  for (int place = 0; place < returns.count; ++place) {
    const int rank = __shfl_sync(kFullWarp, returns.rank, place);
    if (rank < 0) continue;
    uint4 data[kPlanes] = {};
    if (rank != g.rank) {
      Vectors part;
      if (index.thread < index.lanes) {
        const Wait wait = {Phase::kCombine, Awaited::kPartial, rank, epoch, token, epoch};
        const Packet* from = partial_of(g, g.self, epoch, place, token);
        ok = receive_packets(g, wait, from, index.lanes, index.thread, part) && ok;
      }
#pragma unroll
      for (int i = 0; i < kPlanes; ++i) data[i] = part.v[i];
    } else if (a.exact) {
      const int own_copy = __shfl_sync(kFullWarp, returns.own_copy, place);
      load_vectors(row_of_lane(copy, own_copy), vectors, index, data);
    } else {
      Sum<kPlanes> part;
      add_copies(copy, copies, vectors, index, part);
#pragma unroll
      for (int i = 0; i < kPlanes; ++i) data[i] = part.rounded(i);
    }
    __syncwarp();
    const float weight = __shfl_sync(kFullWarp, returns.weight, place);
#pragma unroll
    for (int i = 0; i < kPlanes; ++i) sum.add(i, data[i], weight);
  }
  return __all_sync(kFullWarp, ok);
}

__device__ bool finish_token(const CombineArgs& a, int token, int vectors, uint32_t epoch) {
  const GroupView& g = a.group;
  const Returns returns = make_returns(a, load_pair(a, token, a.tokens));
  const int own_row = g.own_row[token];
  const int64_t landed =
      static_cast<int64_t>(g.rank) * g.shape.max_tokens + (own_row < 0 ? 0 : own_row);
  const int copies = own_row < 0 ? 0 : g.received[landed].copies;
  const CopyLane copy = load_copy(a, landed, copies);
  bool ok = true;
  for_each_part(vectors, [&](const StridedByPlane& index) {
    Sum<kPlanes> sum;
    ok = sum_returns(a, token, vectors, epoch, index, returns, copy, copies, sum) && ok;
    write_token(a, token, vectors, index, sum);
  });
  return ok;
}

__global__ void __launch_bounds__(kThreads, 2)
    combine_small_kernel(const __grid_constant__ CombineArgs a) {
  const GroupView& g = a.group;
  ptx::wait_for_previous_kernel();
  if (g.early) ptx::allow_next_kernel();
  const uint32_t epoch = next_epoch(g.state->combine_epoch);
  if (must_skip(g, Phase::kCombine, epoch)) return;
  announce(g, g.at.combine_ready, epoch);
  const int vectors = static_cast<int>(g.shape.result_bytes / kVectorBytes);
  push(a, vectors, epoch);
  // From the last block on: the first ones have rows to push.
  for (int token = static_cast<int>(gridDim.x - 1 - blockIdx.x); token < a.tokens;
       token += gridDim.x) {
    if (!finish_token(a, token, vectors, epoch)) break;
  }
  // Everybody has come to this call, so nobody is more than one behind.
  const int peer = static_cast<int>(threadIdx.x);
  if (blockIdx.x == 0 && peer < g.shape.num_ranks && peer != g.rank && is_active(peer)) {
    wait_ready(g, g.at.combine_ready, Phase::kCombine, peer, epoch);
  }
  finish_phase(&g.state->combine_epoch);
}

}  // namespace

cudaError_t load_combine_small() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, combine_small_kernel);
}

cudaError_t launch_combine_small(const Launch& launch, const CombineArgs& args) {
  return launch_kernel(combine_small_kernel, launch, kThreads, 0, args);
}

}  // namespace wideep::alltoall
