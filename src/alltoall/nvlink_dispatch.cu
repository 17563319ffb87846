// Dispatch of a large batch, one kernel. The block's first warps push: each takes a token, reads
// its row once and writes it once to every rank that has one of its slots. One warp publishes what
// has been stored, with headers that carry the epoch. The last warps receive: they wait for headers
// and copy rows from where they landed to their slots, while later rows still cross the links. Rows
// by source rank stay where they landed.
#include "alltoall/nvlink_kernels.h"
#include "alltoall/nvlink_launch.h"
#include "alltoall/nvlink_receive.cuh"
#include "alltoall/nvlink_rows.cuh"
#include "alltoall/nvlink_scan.cuh"

namespace wideep::alltoall {
namespace {

using namespace device;  // NOLINT: the kernels' own vocabulary

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kReceivers = 1;  // the named barrier of the receiving warps

// A token's pairs, spread over the lanes: lane k has the k-th.
struct Route {
  int slot = 0;
  int index = -1;  // among this rank's rows for the slot; -1: no pair
  int rank = -1;
  int row = -1;  // among the rows for the rank; -1: not the token's first slot there
  float weight = 1;
  uint32_t leaders = 0;  // lanes with a row
};

// Lane k's pair as it was loaded.
struct RawRoute {
  int slot = -1;
  int index = -1;
  int row = -1;
  float weight = 1;
};

__device__ RawRoute look_up(const DispatchArgs& a, int token, int end) {
  RawRoute raw;
  if (token < end && lane_id() < a.top_k) {
    const int64_t pair = static_cast<int64_t>(token) * a.top_k + lane_id();
    raw.slot = a.slots[pair];
    raw.index = a.group.pair_index[pair];
    raw.row = a.group.pair_row[pair];
    if (a.weights != nullptr) raw.weight = a.weights[pair];
  }
  return raw;
}

__device__ Route make_route(const GroupView& g, const RawRoute& raw) {
  Route route;
  if (raw.index >= 0) {
    route.slot = raw.slot;
    route.index = raw.index;
    route.rank = raw.slot / g.shape.slots_per_rank();
    route.row = raw.row;
    route.weight = raw.weight;
  }
  route.leaders = __ballot_sync(kFullWarp, route.row >= 0);
  return route;
}

// Slots are filled from this rank's own input where it travels as it is.
template <Payload kPayload>
__device__ bool stays(const DispatchArgs& a, int rank) {
  return kPayload == Payload::kBytes && rank == a.group.rank && a.layout != DeviceLayout::kBySource;
}

template <Payload kPayload>
__device__ void push_row(const DispatchArgs& a, int token, const Route& route) {
  const GroupView& g = a.group;
  const bool leads = route.row >= 0 && !stays<kPayload>(a, route.rank);
  Places rows;
  Places scales;
  rows.lanes = scales.lanes = __ballot_sync(kFullWarp, leads);
  if (leads) {
    const int64_t landing = static_cast<int64_t>(g.rank) * g.shape.max_tokens + route.row;
    rows.to = g.peers[route.rank] + g.at.rows + landing * a.row_bytes;
    scales.to = g.peers[route.rank] + g.at.scales + landing * g.shape.scale_bytes;
  }
  const std::byte* from = a.rows + token * a.row_stride;
  if constexpr (kPayload == Payload::kQuantize) {
    quantize_row<2>(from, a.scale_columns, rows, scales);
  } else {
    spread_row<7, true>(from, static_cast<int>(a.row_bytes / kVectorBytes), rows);
    if (a.scales != nullptr) {
      const float* words = a.scales + static_cast<int64_t>(token) * a.scale_columns;
      spread_words(words, a.scale_columns, scales);
    }
  }
}

// The first packet of a header: what makes a row visible, and where it goes.
struct Head {
  Packet* at;  // null: none
  uint32_t token;
  uint32_t counts;
};

// In shared memory: rows that have left their warp and wait to be published. Pushing warps do not
// wait for the links; the publisher's fence does, for all rows that were stored meanwhile.
struct Outbox {
  static constexpr int kDepth = 2;  // of a warp's tokens
  static constexpr int kStopped = 1 << 30;

  volatile int stored[kWarps];     // of each warp's tokens
  volatile int published[kWarps];  // of those
  Head heads[kWarps][kDepth][kMaxTopK];
};

// Writes the headers of a token at all its ranks but for the heads, which go to the outbox.
__device__ void write_headers(const DispatchArgs& a, int token, const Route& route, uint32_t epoch,
                              Head (&heads)[kMaxTopK]) {
  const GroupView& g = a.group;
  const int lane = lane_id();
  if (lane < a.top_k) heads[lane].at = nullptr;
  __syncwarp();
  for (uint32_t left = route.leaders; left != 0; left &= left - 1) {
    const int leader = __ffs(static_cast<int>(left)) - 1;
    const int rank = __shfl_sync(kFullWarp, route.rank, leader);
    const int row = __shfl_sync(kFullWarp, route.row, leader);
    const uint32_t same = __ballot_sync(kFullWarp, route.rank == rank);
    const uint32_t lower = __ballot_sync(kFullWarp, route.row >= 0 && route.rank < rank);
    Packet* header = header_of(g, g.peers[rank], g.rank, epoch, row);
    if (route.rank == rank) {
      const int place = __popc(same & ((1U << lane) - 1));
      const int local = route.slot - rank * g.shape.slots_per_rank();
      const uint32_t tag = static_cast<uint32_t>(local) | static_cast<uint32_t>(lane) << 16;
      ptx::store_relaxed(
          header + 1 + place,
          {{tag, static_cast<uint32_t>(route.index), __float_as_uint(route.weight)}, epoch});
    }
    if (lane == leader) {
      const uint32_t counts =
          static_cast<uint32_t>(__popc(same)) | static_cast<uint32_t>(__popc(lower)) << 8;
      heads[lane] = {header, static_cast<uint32_t>(token), counts};
    }
  }
}

template <Payload kPayload>
__device__ void push(const DispatchArgs& a, uint32_t epoch, Outbox& outbox) {
  const GroupView& g = a.group;
  const int warp = warp_id();
  if (!wait_all_ready(g, g.at.dispatch_ready, Phase::kDispatch, epoch)) {
    if (lane_id() == 0) outbox.stored[warp] = Outbox::kStopped;
    return;
  }
  const Range tokens = share_of(a.tokens, static_cast<int>(blockIdx.x), gridDim.x);
  int count = 0;
  RawRoute next = look_up(a, tokens.begin + warp, tokens.end);
  for (int token = tokens.begin + warp; token < tokens.end; token += a.push_warps) {
    const Route route = make_route(g, next);
    next = look_up(a, token + a.push_warps, tokens.end);
    push_row<kPayload>(a, token, route);
    while (outbox.published[warp] <= count - Outbox::kDepth) {
    }
    write_headers(a, token, route, epoch, outbox.heads[warp][count % Outbox::kDepth]);
    __threadfence_block();
    __syncwarp();
    ++count;
    if (lane_id() == 0) outbox.stored[warp] = count;
  }
}

// Publishes what the pushing warps have stored, until all has been. By one warp; lane w looks after
// warp w.
__device__ void publish(const DispatchArgs& a, uint32_t epoch, Outbox& outbox) {
  const int lane = lane_id();
  const Range tokens = share_of(a.tokens, static_cast<int>(blockIdx.x), gridDim.x);
  const int mine = lane < a.push_warps
                       ? max(0, tokens.end - tokens.begin - lane + a.push_warps - 1) / a.push_warps
                       : 0;
  int published = 0;
  while (__any_sync(kFullWarp, published < mine)) {
    int stored = lane < a.push_warps ? outbox.stored[lane] : 0;
    if (stored == Outbox::kStopped) {
      published = mine;
      stored = mine;
    }
    uint32_t ready = __ballot_sync(kFullWarp, stored > published);
    if (ready == 0) continue;
    // Every lane, because every lane publishes: what the warps stored comes before what follows.
    __threadfence_block();
    __syncwarp();
    ptx::fence_sys();
    for (; ready != 0; ready &= ready - 1) {
      const int warp = __ffs(static_cast<int>(ready)) - 1;
      const int end = __shfl_sync(kFullWarp, stored, warp);
      for (int n = __shfl_sync(kFullWarp, published, warp); n < end; ++n) {
        if (lane >= a.top_k) continue;
        const Head head = outbox.heads[warp][n % Outbox::kDepth][lane];
        if (head.at != nullptr) {
          ptx::store_relaxed(head.at, {{head.token, head.counts, 0}, epoch});
        }
      }
      __syncwarp();
    }
    published = stored > published ? stored : published;
    if (lane < a.push_warps) outbox.published[lane] = published;
  }
}

// Copies a row that has arrived to its slots.
template <Payload kPayload>
__device__ void place_row(const DispatchArgs& a, int source, int64_t landed,
                          const Arrival& arrival) {
  const GroupView& g = a.group;
  Places rows;
  Places scales;
  rows.lanes = scales.lanes = __ballot_sync(kFullWarp, arrival.copy.row >= 0);
  rows.to = a.out_rows + arrival.copy.row * a.row_bytes;
  scales.to = reinterpret_cast<std::byte*>(a.out_scales + arrival.copy.row * a.out_scale_stride);
  const int vectors = static_cast<int>(a.row_bytes / kVectorBytes);
  const float* from_scales = at<float>(g.self, g.at.scales + landed * g.shape.scale_bytes);
  if (stays<kPayload>(a, source)) {
    spread_row<7, true>(a.rows + arrival.token * a.row_stride, vectors, rows);
    if (a.scales != nullptr) {
      from_scales = a.scales + static_cast<int64_t>(arrival.token) * a.scale_columns;
    }
  } else {
    spread_row<7, false>(g.self + g.at.rows + landed * a.row_bytes, vectors, rows);
  }
  if (a.scale_columns > 0) spread_words(from_scales, a.scale_columns, scales);
}

// Calls body(source, row) for this worker's part of the rows that the sources' blocks of this
// number push about now, own rows first: they are there. Stops where body returns false.
template <typename Body>
__device__ void for_each_arrival(const GroupView& g, const ReceiveTable& table, int worker,
                                 int workers, const Body& body) {
  const int num_ranks = g.shape.num_ranks;
  int longest = 0;
  for (int s = 0; s < num_ranks; ++s) {
    const Range rows = share_of(static_cast<int>(table.rows[s]), blockIdx.x, gridDim.x);
    longest = max(longest, rows.end - rows.begin);
  }
  for (int i = worker; i < longest * num_ranks; i += workers) {
    const int source = (g.rank + i % num_ranks) % num_ranks;
    const Range rows = share_of(static_cast<int>(table.rows[source]), blockIdx.x, gridDim.x);
    const int row = rows.begin + i / num_ranks;
    if (row < rows.end && !body(source, row)) return;
  }
}

template <Payload kPayload>
__device__ void receive(const DispatchArgs& a, uint32_t epoch, const ReceiveTable& table) {
  const GroupView& g = a.group;
  const int first = a.push_warps + 1;
  const int warps = kWarps - first;
  const Member member = {static_cast<int>(threadIdx.x) - first * 32, warps * 32, kReceivers};
  if (!fill_table(a, epoch, member, table)) return;
  if (a.layout == DeviceLayout::kBySource) {
    for_each_arrival(g, table, member.thread, member.threads, [&](int source, int row) {
      return receive_row_of_source(a, epoch, source, row);
    });
  } else {
    for_each_arrival(g, table, warp_id() - first, warps, [&](int source, int row) {
      Arrival arrival;
      if (!receive_header(a, epoch, table, source, row, arrival)) return false;
      const int64_t landed = static_cast<int64_t>(source) * g.shape.max_tokens + row;
      place_row<kPayload>(a, source, landed, arrival);
      keep_row(g, landed, arrival);
      return true;
    });
  }
  __syncwarp();
  copy_all_counts(a, epoch, member);
}

template <Payload kPayload>
__global__ void __launch_bounds__(kThreads, 1)
    dispatch_kernel(const __grid_constant__ DispatchArgs a) {
  extern __shared__ __align__(16) uint32_t shared[];
  const GroupView& g = a.group;
  ptx::wait_for_previous_kernel();
  const uint32_t epoch = next_epoch(g.state->dispatch_epoch);
  if (must_skip(g, Phase::kDispatch, epoch)) return;
  announce(g, g.at.dispatch_ready, epoch);
  // The outbox and the pairs first: they are read as vectors.
  Outbox& outbox = *reinterpret_cast<Outbox*>(shared);
  uint32_t* pairs = shared + sizeof(Outbox) / 4;
  uint32_t* failed = pairs + kMaxUnitTokens * histogram_stride(a.top_k);
  uint32_t* rows = failed + 1;
  uint32_t* counts = rows + kMaxNvlinkRanks;
  if (threadIdx.x < kWarps) {
    outbox.stored[threadIdx.x] = 0;
    outbox.published[threadIdx.x] = 0;
  }
  if (scan_batch(a, epoch, counts, pairs)) {
    const ReceiveTable table = {counts, rows, reinterpret_cast<volatile int*>(failed)};
    if (warp_id() < a.push_warps) {
      push<kPayload>(a, epoch, outbox);
    } else if (warp_id() == a.push_warps) {
      publish(a, epoch, outbox);
    } else {
      receive<kPayload>(a, epoch, table);
    }
  }
  finish_phase(&g.state->dispatch_epoch);
}

int64_t shared_bytes(const DispatchArgs& a) {
  return static_cast<int64_t>(sizeof(Outbox)) +
         int64_t{4} * (kMaxUnitTokens * histogram_stride(a.top_k) + 1 + kMaxNvlinkRanks +
                       a.group.shape.columns());
}

}  // namespace

cudaError_t load_dispatch() {
  for (const auto kernel :
       {dispatch_kernel<Payload::kBytes>, dispatch_kernel<Payload::kQuantize>}) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedMemoryOfKernel);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t launch_dispatch(const Launch& launch, Payload payload, const DispatchArgs& args) {
  const auto kernel = payload == Payload::kQuantize ? dispatch_kernel<Payload::kQuantize>
                                                    : dispatch_kernel<Payload::kBytes>;
  const int bytes = static_cast<int>(shared_bytes(args));
  return launch_kernel(kernel, launch, kThreads, bytes, args);
}

}  // namespace wideep::alltoall
