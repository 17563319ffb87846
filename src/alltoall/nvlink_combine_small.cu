// Combine of a small batch, one kernel without fences: sums (exact: copies) travel as lines with
// the epoch in them. The first blocks push, and wait for nobody; the others sum what came back. A
// block takes one part of a row at a time, a vector a thread. Buffers alternate with the parity of
// the epoch; a call ends only when all ranks have come to it, so a rank cannot be two calls ahead.
#include "alltoall/nvlink_kernels.h"
#include "alltoall/nvlink_launch.h"
#include "alltoall/nvlink_lines.cuh"
#include "alltoall/nvlink_regime.h"
#include "alltoall/nvlink_sums.cuh"

namespace wideep::alltoall {
namespace {

using namespace device;  // NOLINT: the kernels' own vocabulary

constexpr int kThreads = kSmallThreads;

__device__ Lines partial_of(const GroupView& g, std::byte* owner, uint32_t epoch, int place,
                            int token) {
  const int64_t row =
      (static_cast<int64_t>(epoch & 1) * g.shape.partials() + place) * g.shape.small_tokens + token;
  return {owner + g.at.small_partials + row * bytes_as_lines(g.shape.result_bytes, 0),
          lines_of_row(g.shape.result_bytes)};
}

// This thread's vector of a part of a result, which may lie behind the result in its last line.
__device__ int vector_of_result(const CombineArgs& a, int part) {
  const int vectors = lines_of_row(a.group.shape.result_bytes) * kVectorsOfLine;
  return vector_of_part(a.parts, part, vectors);
}

// What is known of a row that goes back, its copies spread over the lanes of each warp; as loaded,
// so that nothing waits for it yet.
struct Received {
  Copy copy;
  ReceivedRow row;
};

// With all copies that there may be: their number need not be known first.
__device__ Received load_received(const CombineArgs& a, int source, int row) {
  const GroupView& g = a.group;
  Received received = {};
  if (source >= g.shape.num_ranks || row < 0 || row >= g.shape.max_tokens) return received;
  const int64_t landed = static_cast<int64_t>(source) * g.shape.max_tokens + row;
  if (lane_id() < (a.group.shape.by_source ? 1 : a.top_k)) {
    received.copy = g.copies[landed * g.shape.top_k + lane_id()];
  }
  received.row = g.received[landed];
  return received;
}

// Vector v of the copy that lane `from` has.
__device__ uint4 load_copy(const CombineArgs& a, const Copy& copy, int from, int v) {
  const int64_t row = __shfl_sync(kFullWarp, copy.row, from);
  if (v >= static_cast<int>(a.group.shape.result_bytes / kVectorBytes)) return {0, 0, 0, 0};
  return ptx::load_row(a.rows + row * a.row_stride + int64_t{kVectorBytes} * v);
}

// The weighted sum of a row's copies, in the order of k. By whole warps.
__device__ uint4 sum_copies(const CombineArgs& a, const Copy& copy, int copies, int v) {
  constexpr int kAtOnce = 4;  // so that their latencies overlap
  Sum<1> sum;
#pragma unroll 1
  for (int first = 0; first < copies; first += kAtOnce) {
    uint4 data[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i < copies) data[i] = load_copy(a, copy, first + i, v);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i < copies) sum.add(0, data[i], __shfl_sync(kFullWarp, copy.weight, first + i));
    }
  }
  return sum.rounded(0);
}

__device__ void push_part(const CombineArgs& a, int source, int part, const Received& received,
                          uint32_t epoch) {
  const GroupView& g = a.group;
  const int v = vector_of_result(a, part);
  const auto send = [&](int place, const uint4& data) {
    const Lines to = partial_of(g, g.peers[source], epoch, place, received.row.token);
    if (v < to.vectors()) send_vector(to, v, data, epoch);
  };
  if (!a.group.shape.exact) {
    send(received.row.partial, sum_copies(a, received.copy, received.row.copies, v));
    return;
  }
#pragma unroll 1
  for (int c = 0; c < received.row.copies; ++c) {
    send(__shfl_sync(kFullWarp, received.copy.k, c), load_copy(a, received.copy, c, v));
  }
}

// The first rank that blocks may push to.
__device__ int first_other(const GroupView& g) {
  return g.rank == 0 ? 1 : 0;
}

// `next`: this block's first row of first_other(), if there is one.
__device__ void push(const CombineArgs& a, Deal deal, Received next, uint32_t epoch) {
  const GroupView& g = a.group;
#pragma unroll 1
  for (int source = first_other(g); source < g.shape.num_ranks; ++source) {
    if (source == g.rank || !is_active(source)) continue;
    const int rows = g.source_rows[source];
    if (source != first_other(g)) next = load_received(a, source, deal.row);
#pragma unroll 1
    while (deal.row < rows) {
      const Received received = next;
      const int part = deal.part;
      deal.next();
      if (deal.row < rows) next = load_received(a, source, deal.row);
      push_part(a, source, part, received, epoch);
    }
    deal.row -= rows;
  }
}

// The vector of the row that `rank` sent back; false where a rank gave up. By whole warps.
__device__ bool receive_partial(const CombineArgs& a, int token, uint32_t epoch, int v, int rank,
                                int place, uint4& data) {
  const GroupView& g = a.group;
  const Lines from = partial_of(g, g.self, epoch, place, token);
  const Wait wait = {Phase::kCombine, Awaited::kPartial, rank, epoch, token, epoch};
  Landed landed = {};
  const bool ok = wait_lanes(g, wait, [&](uint64_t& seen) {
    if (v >= from.vectors()) return true;
    landed = load_vector(from, v);
    return has_come(landed, v, epoch, seen);
  });
  data = vector_of(landed, v);
  return ok;
}

// Sums what came back of a part of a token, in order, and adds the residual; false where a rank
// gave up.
__device__ bool finish_part(const CombineArgs& a, int token, int part, uint32_t epoch) {
  const GroupView& g = a.group;
  const int v = vector_of_result(a, part);
  const Returns returns = make_returns(a, load_pair(a, token, a.tokens));
  const int own_row = g.own_row[token];
  const Received own = load_received(a, g.rank, own_row);
  const int copies = own_row < 0 ? 0 : own.row.copies;
  const bool has_vector = v < static_cast<int>(g.shape.result_bytes / kVectorBytes);
  const int64_t offset = int64_t{kVectorBytes} * v;
  // Before others are waited for.
  uint4 own_sum = {0, 0, 0, 0};
  if (!a.group.shape.exact) own_sum = sum_copies(a, own.copy, copies, v);
  uint4 residual = {0, 0, 0, 0};
  if (a.residual != nullptr && has_vector) {
    residual = ptx::load_input(a.residual + token * a.residual_stride + offset);
  }
  Sum<1> sum;
#pragma unroll 1
  for (int place = 0; place < returns.count; ++place) {
    const int rank = __shfl_sync(kFullWarp, returns.rank, place);
    if (rank < 0) continue;
    uint4 data = own_sum;
    if (rank != g.rank) {
      if (!receive_partial(a, token, epoch, v, rank, place, data)) return false;
    } else if (a.group.shape.exact) {
      data = load_copy(a, own.copy, __shfl_sync(kFullWarp, returns.own_copy, place), v);
    }
    sum.add(0, data, __shfl_sync(kFullWarp, returns.weight, place));
  }
  if (!has_vector) return true;
  if (a.residual != nullptr) sum.add(0, residual, 1.0F);
  ptx::store_row(a.out + token * a.out_stride + offset, sum.rounded(0));
  return true;
}

__global__ void __launch_bounds__(kThreads, 2)
    combine_small_kernel(const __grid_constant__ CombineArgs a) {
  const GroupView& g = a.group;
  const int block = static_cast<int>(blockIdx.x);
  const bool pushes = block < a.push_blocks;
  Deal deal = pushes ? deal_parts(block, a.push_blocks, a.parts.count)
                     : deal_parts(block - a.push_blocks,
                                  static_cast<int>(gridDim.x) - a.push_blocks, a.parts.count);
  ptx::wait_for_previous_kernel();
  if (g.early) ptx::allow_next_kernel();
  // Loaded here, so that it is under way together with what the start of a kernel needs.
  Received first = {};
  if (pushes) first = load_received(a, first_other(g), deal.row);
  const uint32_t epoch = next_epoch(g.state->combine_epoch);
  if (must_skip(g, Phase::kCombine, epoch)) return;
  announce(g, g.at.combine_ready, epoch);
  if (pushes) {
    push(a, deal, first, epoch);
  } else {
#pragma unroll 1
    for (; deal.row < a.tokens; deal.next()) {
      if (!finish_part(a, deal.row, deal.part, epoch)) break;
    }
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
