// Dispatch of a small batch, one kernel without a barrier of the grid and without fences: rows,
// headers and counts all carry the epoch themselves. Every block counts the whole batch, a few
// thousand ids at most, sends its tokens and places its share of what arrives. Buffers alternate
// with the parity of the epoch: a rank that is one call ahead writes to the other half, and it
// cannot be two ahead, since a call ends only with the counts of all ranks.
#include "alltoall/nvlink_kernels.h"
#include "alltoall/nvlink_launch.h"
#include "alltoall/nvlink_packets.cuh"
#include "alltoall/nvlink_receive.cuh"
#include "alltoall/nvlink_scan.cuh"
#include "alltoall/quantize.cuh"

namespace wideep::alltoall {
namespace {

using namespace device;  // NOLINT: the kernels' own vocabulary

constexpr int kThreads = kSmallThreads;
constexpr int kWarps = kThreads / 32;

// The block's shared memory, in this order.
struct Shared {
  volatile int* failed;
  int* copies;       // of the row that is being placed
  int* indices;      // [kMaxTopK] of the token whose header is being written
  int* places;       // [kMaxTopK] rows of the output of the row that is being placed
  uint32_t* before;  // [kMaxNvlinkRanks] rows for each rank of the tokens before this block's
  uint32_t* rows;    // [kMaxNvlinkRanks] of each source
  float* scales;     // [kSmallThreads] of the row that is being pushed
  uint32_t* pairs;   // [tokens * top_k]
  uint32_t* counts;  // [columns], then the table of the receiver
};

__device__ Shared carve(uint32_t* memory, const DispatchArgs& a) {
  Shared s;
  s.failed = reinterpret_cast<volatile int*>(memory);
  s.copies = reinterpret_cast<int*>(memory + 1);
  s.indices = s.copies + 1;
  s.places = s.indices + kMaxTopK;
  s.before = memory + 2 + 2 * kMaxTopK;
  s.rows = s.before + kMaxNvlinkRanks;
  s.scales = reinterpret_cast<float*>(s.rows + kMaxNvlinkRanks);
  s.pairs = memory + kSmallSharedWords;
  s.counts = s.pairs + a.tokens * a.top_k;
  return s;
}

// Keeps the batch's pairs and clears the counts. `first` is this thread's first slot id.
__device__ void load_batch(const DispatchArgs& a, int first, uint32_t epoch, const Shared& s) {
  for (int p = static_cast<int>(threadIdx.x); p < a.tokens * a.top_k; p += kThreads) {
    const int slot = p == static_cast<int>(threadIdx.x) ? first : a.slots[p];
    s.pairs[p] = checked_pair(a, p, slot, epoch);
  }
  for (int c = static_cast<int>(threadIdx.x); c < a.group.shape.columns(); c += kThreads) {
    s.counts[c] = 0;
  }
  for (int r = static_cast<int>(threadIdx.x); r < a.group.shape.num_ranks; r += kThreads) {
    s.before[r] = 0;
  }
}

// Adds to `rows` [num_ranks] what tokens [begin, end) send to each rank, by all warps: each takes
// as many whole tokens at a time as it has lanes for.
__device__ void add_rows(const DispatchArgs& a, int begin, int end, const Shared& s,
                         uint32_t* rows) {
  const int step = 32 / a.top_k * a.top_k;
  for (int base = begin * a.top_k + warp_id() * step; base < end * a.top_k; base += kWarps * step) {
    const int p = base + lane_id();
    const uint32_t pair = lane_id() < step && p < end * a.top_k ? s.pairs[p] : kNoPair;
    if (leads_rank(pair, lane_id() / a.top_k)) atomicAdd(&rows[pair >> 16], 1U);
  }
}

// Counts the batch and sends this block's share of the counts to all ranks.
__device__ void send_counts(const DispatchArgs& a, uint32_t epoch, const Shared& s) {
  const GroupView& g = a.group;
  add_rows(a, 0, a.tokens, s, s.counts + g.shape.num_slots);
  for (int p = static_cast<int>(threadIdx.x); p < a.tokens * a.top_k; p += kThreads) {
    if (s.pairs[p] != kNoPair) atomicAdd(&s.counts[s.pairs[p] & 0xffffU], 1U);
  }
  __syncthreads();
  const Range mine = share_of(g.shape.columns(), static_cast<int>(blockIdx.x), gridDim.x);
  const int width = mine.end - mine.begin;
  for (int i = static_cast<int>(threadIdx.x); i < width * g.shape.num_ranks; i += kThreads) {
    const int rank = i / width;
    const int column = mine.begin + i % width;
    if (!is_active(rank)) continue;
    ptx::store_relaxed(cells_of(g, g.peers[rank], g.rank, epoch) + column,
                       static_cast<uint64_t>(epoch) << 32 | s.counts[column]);
  }
}

// This thread's part of a token's row as it travels: the row, then its scales. Called by all
// threads of the block, with one barrier where rows are quantised.
template <Payload kPayload>
__device__ Vectors load_part(const DispatchArgs& a, int token, int lanes, const Shared& s) {
  const std::byte* from = a.rows + token * a.row_stride;
  const int row_vectors = static_cast<int>(a.row_bytes / kVectorBytes);
  const int thread = static_cast<int>(threadIdx.x);
  Vectors part;
#pragma unroll
  for (int i = 0; i < kPlanes; ++i) {
    const int v = i * lanes + thread;
    const bool is_row = thread < lanes && v < row_vectors;
    if constexpr (kPayload == Payload::kQuantize) {
      uint4 first = {0, 0, 0, 0};
      uint4 second = {0, 0, 0, 0};
      if (is_row) {
        first = ptx::load_input(from + int64_t{2 * kVectorBytes} * v);
        second = ptx::load_input(from + int64_t{2 * kVectorBytes} * v + kVectorBytes);
      }
      float scale;
      part.v[i] = quantize16(first, second, scale);
      if (is_row && v % 8 == 0) s.scales[v / 8] = scale;
    } else if (is_row) {
      part.v[i] = ptx::load_input(from + int64_t{kVectorBytes} * v);
    }
  }
  if constexpr (kPayload == Payload::kQuantize) __syncthreads();
  if (a.scale_columns == 0 || thread >= lanes) return part;
  const float* scales = kPayload == Payload::kQuantize
                            ? s.scales
                            : a.scales + static_cast<int64_t>(token) * a.scale_columns;
#pragma unroll
  for (int i = 0; i < kPlanes; ++i) {
    const int c = (i * lanes + thread - row_vectors) * 4;
    if (c < 0 || c >= a.scale_columns) continue;
    const auto word = [&](int j) {
      return c + j < a.scale_columns ? __float_as_uint(scales[c + j]) : 0U;
    };
    part.v[i] = {word(0), word(1), word(2), word(3)};
  }
  return part;
}

__device__ Packet* small_row(const GroupView& g, std::byte* owner, int source, uint32_t epoch,
                             int64_t row) {
  const int64_t packets = packets_of_row(g.shape.row_bytes + g.shape.scale_bytes);
  const int64_t index = static_cast<int64_t>(epoch & 1) * g.shape.num_ranks + source;
  return at<Packet>(owner, g.at.small_rows) + (index * g.shape.small_tokens + row) * packets;
}

// Indices of the token's pairs among this rank's rows for their slots, a warp a pair.
__device__ void rank_pairs(const DispatchArgs& a, int token, const Shared& s) {
  for (int k = warp_id(); k < a.top_k; k += kWarps) {
    const int p = token * a.top_k + k;
    const uint32_t mine = s.pairs[p];
    int before = 0;
    for (int q = lane_id(); q < p; q += 32) before += s.pairs[q] == mine ? 1 : 0;
    before = static_cast<int>(__reduce_add_sync(kFullWarp, static_cast<uint32_t>(before)));
    if (lane_id() == 0) s.indices[k] = before;
  }
}

// A token's pairs, spread over the lanes: lane k has the k-th.
struct Route {
  int slot = -1;  // of its rank
  int rank = -1;  // -1: no pair
  int row = -1;   // among the rows for the rank; -1: not the token's first slot there
};

// `rows` [num_ranks]: what the tokens before it send to each rank.
__device__ Route make_route(const DispatchArgs& a, int token, const uint32_t* pairs,
                            const uint32_t* rows) {
  Route route;
  const uint32_t pair = lane_id() < a.top_k ? pairs[token * a.top_k + lane_id()] : kNoPair;
  const bool leads = leads_rank(pair, 0);
  if (pair == kNoPair) return route;
  route.rank = static_cast<int>(pair >> 16);
  route.slot = static_cast<int>(pair & 0xffffU) - route.rank * a.group.shape.slots_per_rank();
  if (leads) route.row = static_cast<int>(rows[route.rank]);
  return route;
}

__device__ float weight_of(const DispatchArgs& a, int token) {
  if (a.weights == nullptr || lane_id() >= a.top_k) return 1;
  return a.weights[token * a.top_k + lane_id()];
}

// Headers of the token at the other ranks, a warp a rank. All top_k entries are written, those
// beyond the copies as padding, so that the receiver can wait for all at once.
__device__ void send_headers(const DispatchArgs& a, int token, uint32_t epoch, const Route& route,
                             float weight, const Shared& s) {
  const GroupView& g = a.group;
  const int lane = lane_id();
  int turn = 0;
  for (uint32_t left = __ballot_sync(kFullWarp, route.row >= 0 && route.rank != g.rank); left != 0;
       left &= left - 1, ++turn) {
    if (turn % kWarps != warp_id()) continue;
    const int leader = __ffs(static_cast<int>(left)) - 1;
    const int to = __shfl_sync(kFullWarp, route.rank, leader);
    const int to_row = __shfl_sync(kFullWarp, route.row, leader);
    const uint32_t same = __ballot_sync(kFullWarp, route.rank == to);
    const uint32_t lower = __ballot_sync(kFullWarp, route.row >= 0 && route.rank < to);
    Packet* header = header_of(g, g.peers[to], g.rank, epoch, to_row);
    const uint32_t before = (1U << lane) - 1;
    const int place =
        route.rank == to ? __popc(same & before) : __popc(same) + __popc(~same & before);
    if (lane < a.top_k) {
      const uint32_t tag = static_cast<uint32_t>(route.slot & 0xffff) | static_cast<uint32_t>(lane)
                                                                            << 16;
      ptx::store_relaxed(
          header + 1 + place,
          {{tag, static_cast<uint32_t>(s.indices[lane]), __float_as_uint(weight)}, epoch});
    }
    if (lane == 0) {
      const uint32_t counts =
          static_cast<uint32_t>(__popc(same)) | static_cast<uint32_t>(__popc(lower)) << 8;
      ptx::store_relaxed(header, {{static_cast<uint32_t>(token), counts, 0}, epoch});
    }
  }
}

// What is kept of a block's token between sending and placing it. A block of a large grid has one
// token; otherwise `part` is read again.
struct Sent {
  Vectors part;
  Route route;
  float weight;
};

// Calls body(token, route) for this block's tokens in order, with their rows; by all threads.
template <typename Body>
__device__ void for_each_token(const DispatchArgs& a, const Shared& s, const Body& body) {
  const int ranks = a.group.shape.num_ranks;
  const int step = static_cast<int>(gridDim.x);
  const int first = static_cast<int>(blockIdx.x);
  for (int token = first; token < a.tokens; token += step) {
    add_rows(a, token == first ? 0 : token - step, token, s, s.before);
    __syncthreads();
    body(token, make_route(a, token, s.pairs, s.before));
    if (token + step < a.tokens) __syncthreads();  // the rows change
  }
  if (step < a.tokens) {  // to be gone through again
    __syncthreads();
    for (int r = static_cast<int>(threadIdx.x); r < ranks; r += kThreads) s.before[r] = 0;
    __syncthreads();
  }
}

// Sends the counts of the batch, and this block's tokens to the other ranks: rows, then headers.
template <Payload kPayload>
__device__ Sent send(const DispatchArgs& a, int lanes, uint32_t epoch, const Shared& s) {
  const GroupView& g = a.group;
  const int first = static_cast<int>(blockIdx.x);
  const bool one = a.tokens <= static_cast<int>(gridDim.x);
  const int thread = static_cast<int>(threadIdx.x);
  Sent sent;
  if (one && first < a.tokens) {
    sent.weight = weight_of(a, first);
    sent.part = load_part<kPayload>(a, first, lanes, s);
  }
  __syncthreads();  // the pairs are there
  // Behind the rows they would wait for the links, and everybody for them.
  send_counts(a, epoch, s);
  for_each_token(a, s, [&](int token, const Route& route) {
    if (!one) sent.part = load_part<kPayload>(a, token, lanes, s);
    sent.route = route;
    for (uint32_t left = __ballot_sync(kFullWarp, route.row >= 0 && route.rank != g.rank);
         left != 0; left &= left - 1) {
      const int leader = __ffs(static_cast<int>(left)) - 1;
      const int rank = __shfl_sync(kFullWarp, route.rank, leader);
      const int row = __shfl_sync(kFullWarp, route.row, leader);
      if (thread < lanes) {
        send_packets(small_row(g, g.peers[rank], g.rank, epoch, row), lanes, thread, sent.part,
                     epoch);
      }
    }
  });
  if (one) {
    if (first < a.tokens) {
      rank_pairs(a, first, s);
      __syncthreads();
      send_headers(a, first, epoch, sent.route, sent.weight, s);
    }
    return sent;
  }
  for_each_token(a, s, [&](int token, const Route& route) {
    const float weight = weight_of(a, token);
    rank_pairs(a, token, s);
    __syncthreads();
    send_headers(a, token, epoch, route, weight, s);
  });
  return sent;
}

// Writes this thread's part of a row to one row of the output.
__device__ void place_part(const DispatchArgs& a, const Vectors& part, int lanes, std::byte* row,
                           float* scales) {
  const int row_vectors = static_cast<int>(a.row_bytes / kVectorBytes);
#pragma unroll
  for (int i = 0; i < kPlanes; ++i) {
    const int v = i * lanes + static_cast<int>(threadIdx.x);
    if (v < row_vectors) {
      ptx::store_row(row + int64_t{kVectorBytes} * v, part.v[i]);
      continue;
    }
    const int c = (v - row_vectors) * 4;
    const uint32_t words[4] = {part.v[i].x, part.v[i].y, part.v[i].z, part.v[i].w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (c + j < a.scale_columns) scales[c + j] = __uint_as_float(words[j]);
    }
  }
}

// Writes a row that is here to all its places. The last warp, which has its arrival, says where;
// called by all threads.
__device__ void place_row(const DispatchArgs& a, int64_t landed, int lanes, const Vectors& part,
                          const Arrival& arrival, const Shared& s) {
  const GroupView& g = a.group;
  if (warp_id() == kWarps - 1) {
    if (lane_id() < arrival.copies) s.places[lane_id()] = arrival.copy.row;
    if (lane_id() == 0) *s.copies = arrival.copies;
  }
  __syncthreads();
  if (*s.failed != 0) return;
  if (static_cast<int>(threadIdx.x) < lanes) {
    if (a.layout == DeviceLayout::kBySource) {
      place_part(a, part, lanes, g.self + g.at.rows + landed * a.row_bytes,
                 at<float>(g.self, g.at.scales + landed * g.shape.scale_bytes));
    } else {
      for (int i = 0; i < *s.copies; ++i) {
        const int64_t to = s.places[i];
        place_part(a, part, lanes, a.out_rows + to * a.row_bytes,
                   a.out_scales + to * a.out_scale_stride);
      }
    }
  }
  if (warp_id() == kWarps - 1 && a.layout != DeviceLayout::kBySource) keep_row(g, landed, arrival);
  if (warp_id() == kWarps - 1 && a.layout == DeviceLayout::kBySource) {
    if (lane_id() < a.top_k) {
      a.row_slots[landed * a.top_k + lane_id()] = arrival.copy.slot;
      a.row_weights[landed * a.top_k + lane_id()] = arrival.copy.weight;
    }
    if (lane_id() == 0) keep_row_of_source(g, landed, arrival.token, arrival.partial);
  }
}

// A token's own copies, as they would arrive; `index` of this lane's pair.
__device__ Arrival own_arrival(const GroupView& g, int token, const Route& route, int index,
                               float weight, const ReceiveTable& table) {
  const uint32_t own = __ballot_sync(kFullWarp, route.rank == g.rank);
  Arrival arrival;
  arrival.token = token;
  arrival.copies = __popc(own);
  arrival.partial = __popc(__ballot_sync(kFullWarp, route.row >= 0 && route.rank < g.rank));
  // Copies are in the lanes of their k; they belong in the first ones.
  const int from = static_cast<int>(__fns(own, 0, lane_id() + 1)) & 31;
  const int slot = __shfl_sync(kFullWarp, route.slot, from);
  index = __shfl_sync(kFullWarp, index, from);
  weight = __shfl_sync(kFullWarp, weight, from);
  if (lane_id() < arrival.copies) {
    const auto first = table.first[g.rank * g.shape.slots_per_rank() + slot];
    arrival.copy = {static_cast<int>(first) + index, weight, from, slot};
  }
  return arrival;
}

// Places this block's own tokens.
template <Payload kPayload>
__device__ void place_own(const DispatchArgs& a, int lanes, const Sent& sent, const Shared& s,
                          const ReceiveTable& table) {
  const GroupView& g = a.group;
  const auto place = [&](int token, const Route& route, float weight, const Vectors& part) {
    const uint32_t leader = __ballot_sync(kFullWarp, route.rank == g.rank && route.row >= 0);
    const int index = lane_id() < a.top_k ? s.indices[lane_id()] : 0;
    const Arrival arrival = own_arrival(g, token, route, index, weight, table);
    const int row =
        leader == 0 ? -1 : __shfl_sync(kFullWarp, route.row, __ffs(static_cast<int>(leader)) - 1);
    if (threadIdx.x == 0) g.own_row[token] = row;
    if (row >= 0) {
      place_row(a, static_cast<int64_t>(g.rank) * g.shape.max_tokens + row, lanes, part, arrival,
                s);
    }
    __syncthreads();
  };
  const int first = static_cast<int>(blockIdx.x);
  if (a.tokens <= static_cast<int>(gridDim.x)) {
    if (first < a.tokens) place(first, sent.route, sent.weight, sent.part);
    return;
  }
  for_each_token(a, s, [&](int token, const Route& route) {
    const Vectors part = load_part<kPayload>(a, token, lanes, s);
    rank_pairs(a, token, s);
    __syncthreads();
    place(token, route, weight_of(a, token), part);
  });
}

// Places this block's share of what comes from the other ranks.
__device__ void place_arrivals(const DispatchArgs& a, int lanes, uint32_t epoch, const Shared& s,
                               const ReceiveTable& table) {
  const GroupView& g = a.group;
  // From the last block on: the first ones have own tokens.
  int item = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  for (int source = 0; source < g.shape.num_ranks; ++source) {
    if (source == g.rank) continue;
    const int rows = static_cast<int>(table.rows[source]);
    for (; item < rows; item += gridDim.x) {
      Arrival arrival;
      if (warp_id() == kWarps - 1 &&
          !receive_small_header(a, epoch, table, source, item, arrival)) {
        *s.failed = 1;
      }
      Vectors part;
      if (static_cast<int>(threadIdx.x) < lanes &&
          !receive_packets(g, wait_of_row(source, epoch, item),
                           small_row(g, g.self, source, epoch, item), lanes,
                           static_cast<int>(threadIdx.x), part)) {
        *s.failed = 1;
      }
      place_row(a, static_cast<int64_t>(source) * g.shape.max_tokens + item, lanes, part, arrival,
                s);
      __syncthreads();
      if (*s.failed != 0) return;
    }
    item -= rows;
  }
}

template <Payload kPayload>
__global__ void __launch_bounds__(kThreads, 2)
    dispatch_small_kernel(const __grid_constant__ DispatchArgs a) {
  extern __shared__ __align__(16) uint32_t memory[];
  const GroupView& g = a.group;
  ptx::wait_for_previous_kernel();
  if (g.early) ptx::allow_next_kernel();
  // Loaded here, so that it is under way together with what the start of a kernel needs.
  const int first_slot =
      static_cast<int>(threadIdx.x) < a.tokens * a.top_k ? a.slots[threadIdx.x] : -1;
  const uint32_t epoch = next_epoch(g.state->dispatch_epoch);
  if (must_skip(g, Phase::kDispatch, epoch)) return;
  const Shared s = carve(memory, a);
  const int lanes =
      packet_lanes((a.row_bytes + int64_t{4} * a.scale_columns + kVectorBytes - 1) / kVectorBytes);
  load_batch(a, first_slot, epoch, s);
  const Sent sent = send<kPayload>(a, lanes, epoch, s);
  __syncthreads();  // counts become the receiver's table, rows those of each source
  const ReceiveTable table = {s.counts, s.rows, s.failed, reinterpret_cast<uint32_t*>(s.scales),
                              blockIdx.x == 0};
  if (fill_table(a, epoch, table)) {
    place_own<kPayload>(a, lanes, sent, s, table);
    place_arrivals(a, lanes, epoch, s, table);
    copy_all_counts(a, epoch);
  }
  finish_phase(&g.state->dispatch_epoch);
}

int64_t shared_bytes(const DispatchArgs& a) {
  return int64_t{4} * (kSmallSharedWords + a.tokens * a.top_k + a.group.shape.columns());
}

}  // namespace

cudaError_t load_dispatch_small() {
  for (const auto kernel :
       {dispatch_small_kernel<Payload::kBytes>, dispatch_small_kernel<Payload::kQuantize>}) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedMemoryOfKernel);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t launch_dispatch_small(const Launch& launch, Payload payload, const DispatchArgs& args) {
  const auto kernel = payload == Payload::kQuantize ? dispatch_small_kernel<Payload::kQuantize>
                                                    : dispatch_small_kernel<Payload::kBytes>;
  const int bytes = static_cast<int>(shared_bytes(args));
  return launch_kernel(kernel, launch, kThreads, bytes, args);
}

}  // namespace wideep::alltoall
