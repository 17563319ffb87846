// Dispatch of a large batch, one kernel of two teams of blocks. A pushing block's warps each take a
// token, read its row once and write it once to every rank that has one of its slots; its last warp
// publishes what has been stored, with headers that carry the epoch. The other blocks meanwhile
// work out the headers' indices, then receive: they wait for headers and copy rows from where they
// landed to their slots, while later rows still cross the links. Rows by source rank stay where
// they landed.
//
// A few blocks fill the links, and their stores over the links hold up whatever else goes through
// their multiprocessor's memory pipeline: that is why pushing and placing do not share one.
#include <algorithm>

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
constexpr int kPushWarps = kWarps - 1;  // of a pushing block; the last one publishes
constexpr unsigned kGatherNanoseconds = 1000;

// A token's pairs, spread over the lanes: lane k has the k-th.
struct Route {
  int slot = 0;
  int rank = -1;  // -1: no pair
  int row = -1;   // among the rows for the rank; -1: not the token's first slot there
  float weight = 1;
  uint32_t leaders = 0;  // lanes with a row
};

// Lane k's pair as it was loaded.
struct RawRoute {
  int slot = -1;
  float weight = 1;
};

__device__ RawRoute look_up(const DispatchArgs& a, int token, int end) {
  RawRoute raw;
  if (token < end && lane_id() < a.top_k) {
    const int64_t pair = static_cast<int64_t>(token) * a.top_k + lane_id();
    raw.slot = a.slots[pair];
    if (a.weights != nullptr) raw.weight = a.weights[pair];
  }
  return raw;
}

// Takes the token's rows from the counters of its warp's run.
__device__ Route make_route(const GroupView& g, const RawRoute& raw, int run,
                            const RowCounters& counters) {
  Route route;
  const uint32_t pair = pair_of(g, raw.slot);
  if (pair != kNoPair) {
    route.slot = raw.slot;
    route.rank = static_cast<int>(pair >> 16);
    route.weight = raw.weight;
  }
  const bool leads = leads_rank(pair, 0);
  if (leads) route.row = static_cast<int>(counters.at(run, pair >> 16)++);
  route.leaders = __ballot_sync(kFullWarp, leads);
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

  volatile int stored[kPushWarps];     // of each warp's tokens
  volatile int published[kPushWarps];  // of those
  Head heads[kPushWarps][kDepth][kMaxTopK];
};

// Writes the headers of a token at all its ranks but for the heads, which go to the outbox.
__device__ void write_headers(const DispatchArgs& a, int token, const Route& route, uint32_t epoch,
                              Head (&heads)[kMaxTopK]) {
  const GroupView& g = a.group;
  const int lane = lane_id();
  const int index = route.rank < 0 ? 0 : g.pair_index[static_cast<int64_t>(token) * a.top_k + lane];
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
          {{tag, static_cast<uint32_t>(index), __float_as_uint(route.weight)}, epoch});
    }
    if (lane == leader) {
      const uint32_t counts =
          static_cast<uint32_t>(__popc(same)) | static_cast<uint32_t>(__popc(lower)) << 8;
      heads[lane] = {header, static_cast<uint32_t>(token), counts};
    }
  }
}

// Waits until all pairs have their indices, by a whole warp; false where a rank gave up.
__device__ bool wait_scanned(const GroupView& g, uint32_t epoch) {
  return wait_by_warp(g, {Phase::kDispatch, Awaited::kGrid, g.rank, epoch, 0, epoch}, [&] {
    const bool scanned = ptx::load_acquire_gpu(&g.state->scanned) == epoch;
    return __all_sync(kFullWarp, scanned) != 0;
  });
}

// The tokens of a warp of a pushing block.
__device__ Range tokens_of(const DispatchArgs& a, int warp) {
  const Range block = share_of(a.tokens, static_cast<int>(blockIdx.x), a.push_blocks);
  const Range run = share_of(block.end - block.begin, warp, kPushWarps);
  return {block.begin + run.begin, block.begin + run.end};
}

template <Payload kPayload>
__device__ bool push_tokens(const DispatchArgs& a, uint32_t epoch, const RowCounters& counters,
                            RawRoute next, Outbox& outbox) {
  const GroupView& g = a.group;
  const int warp = warp_id();
  const Range tokens = tokens_of(a, warp);
  int count = 0;
  for (int token = tokens.begin; token < tokens.end; ++token) {
    const Route route = make_route(g, next, warp, counters);
    next = look_up(a, token + 1, tokens.end);
    push_row<kPayload>(a, token, route);
    const uint32_t own = __ballot_sync(kFullWarp, route.rank == g.rank && route.row >= 0);
    const int own_row = __shfl_sync(kFullWarp, route.row, __ffs(static_cast<int>(own)) - 1);
    if (lane_id() == 0) g.own_row[token] = own == 0 ? -1 : own_row;
    // The first row has left by now, at the latest.
    if (count == 0 && !wait_scanned(g, epoch)) return false;
    while (outbox.published[warp] <= count - Outbox::kDepth) {
    }
    write_headers(a, token, route, epoch, outbox.heads[warp][count % Outbox::kDepth]);
    __threadfence_block();
    __syncwarp();
    ++count;
    if (lane_id() == 0) outbox.stored[warp] = count;
  }
  return true;
}

// Publishes what the pushing warps have stored, until all has been. By one warp; lane w looks after
// warp w.
__device__ void publish(const DispatchArgs& a, uint32_t epoch, Outbox& outbox) {
  const int lane = lane_id();
  int mine = 0;
  if (lane < kPushWarps) {
    const Range tokens = tokens_of(a, lane);
    mine = tokens.end - tokens.begin;
  }
  int published = 0;
  bool gathered = false;
  while (__any_sync(kFullWarp, published < mine)) {
    int stored = lane < kPushWarps ? outbox.stored[lane] : 0;
    if (stored == Outbox::kStopped) {
      published = mine;
      stored = mine;
    }
    uint32_t ready = __ballot_sync(kFullWarp, stored > published);
    if (ready == 0) continue;
    // A fence holds up the whole multiprocessor until what it stored has arrived: rows gather
    // first.
    if (!gathered && __any_sync(kFullWarp, stored < mine)) {
      __nanosleep(kGatherNanoseconds);
      gathered = true;
      continue;
    }
    gathered = false;
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
    if (lane < kPushWarps) outbox.published[lane] = published;
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

// A pushing block.
template <Payload kPayload>
__device__ void push(const DispatchArgs& a, uint32_t epoch, uint32_t* memory) {
  const GroupView& g = a.group;
  Outbox& outbox = *reinterpret_cast<Outbox*>(memory);
  uint32_t* words = memory + sizeof(Outbox) / 4;
  const int ranks = g.shape.num_ranks;
  const RowCounters counters = {words, words + kPushWarps * ranks, kPushWarps, ranks};
  for (int i = static_cast<int>(threadIdx.x); i < RowCounters::words(kPushWarps, ranks);
       i += kThreads) {
    words[i] = 0;
  }
  const int warp = warp_id();
  if (lane_id() == 0 && warp < kPushWarps) {
    outbox.stored[warp] = 0;
    outbox.published[warp] = 0;
  }
  RawRoute next;
  __syncthreads();
  if (warp < kPushWarps) {
    const Range tokens = tokens_of(a, warp);
    next = look_up(a, tokens.begin, tokens.end);
    count_rows(a, tokens, counters);
  }
  __syncthreads();
  const Team team = {static_cast<int>(blockIdx.x), a.push_blocks};
  if (!place_rows(g, epoch, team, counters)) return;
  if (warp == kPushWarps) {
    publish(a, epoch, outbox);
  } else if (!push_tokens<kPayload>(a, epoch, counters, next, outbox) && lane_id() == 0) {
    outbox.stored[warp] = Outbox::kStopped;
  }
}

// Rows that have come or will come, dealt to the workers of all receiving blocks like cards.
struct Arrivals {
  const GroupView& g;
  const ReceiveTable& table;
  int worker;
  int workers;
  int longest = 0;  // rows from one source

  __device__ Arrivals(const GroupView& group, const ReceiveTable& receive_table, int worker_of,
                      int worker_count)
      : g(group), table(receive_table), worker(worker_of), workers(worker_count) {
    for (int s = 0; s < g.shape.num_ranks; ++s) {
      longest = max(longest, static_cast<int>(table.rows[s]));
    }
  }
  // Whether this worker has an i-th row or later ones.
  __device__ bool has(int i) const { return worker + i * workers < longest * g.shape.num_ranks; }
  // Its i-th row; own rows come first, which are there. False: none.
  __device__ bool find(int i, int& source, int& row) const {
    const int item = worker + i * workers;
    source = (g.rank + item % g.shape.num_ranks) % g.shape.num_ranks;
    row = item / g.shape.num_ranks;
    return row < static_cast<int>(table.rows[source]);
  }
};

// Places rows by slot in the order in which they come, by a warp; each lane waits for one.
template <Payload kPayload>
__device__ void place_arrivals(const DispatchArgs& a, uint32_t epoch, const Arrivals& arrivals) {
  const GroupView& g = a.group;
  for (int first = 0; arrivals.has(first); first += 32) {
    int source = 0;
    int row = 0;
    const bool mine = arrivals.find(first + lane_id(), source, row);
    uint32_t left = __ballot_sync(kFullWarp, mine);
    Packet head = {};
    while (left != 0) {
      uint32_t come = 0;
      const int waiting = __ffs(static_cast<int>(left)) - 1;
      const Wait wait = wait_of_row(__shfl_sync(kFullWarp, source, waiting), epoch,
                                    __shfl_sync(kFullWarp, row, waiting));
      const bool ok = wait_by_warp(g, wait, [&] {
        const bool waits = (left >> lane_id() & 1U) != 0;
        if (waits) head = ptx::load_acquire(header_of(g, g.self, source, epoch, row));
        come = __ballot_sync(kFullWarp, waits && head.epoch == epoch);
        return come != 0;
      });
      if (!ok) return;
      __syncwarp();  // what one lane acquired, all may read
      for (; come != 0; come &= come - 1) {
        const int lane = __ffs(static_cast<int>(come)) - 1;
        left &= ~(1U << lane);
        const int from = __shfl_sync(kFullWarp, source, lane);
        const int from_row = __shfl_sync(kFullWarp, row, lane);
        Packet its_head = {};
        its_head.word[0] = __shfl_sync(kFullWarp, head.word[0], lane);
        its_head.word[1] = __shfl_sync(kFullWarp, head.word[1], lane);
        Arrival arrival;
        read_head(its_head, arrival);
        if (!receive_copies(a, epoch, arrivals.table, from, from_row, arrival)) return;
        const int64_t landed = static_cast<int64_t>(from) * g.shape.max_tokens + from_row;
        place_row<kPayload>(a, from, landed, arrival);
        keep_row(g, landed, arrival);
      }
    }
  }
}

// A block that receives, after it has helped to work out the headers' indices.
template <Payload kPayload>
__device__ void receive(const DispatchArgs& a, uint32_t epoch, uint32_t* memory) {
  const GroupView& g = a.group;
  uint32_t* rows = memory;
  uint32_t* sums = rows + kMaxNvlinkRanks;
  uint32_t* counts = sums + kWarps;
  const Team team = {static_cast<int>(blockIdx.x) - a.push_blocks,
                     static_cast<int>(gridDim.x) - a.push_blocks};
  if (!place_pairs(a, epoch, team, counts)) return;
  const ReceiveTable table = {counts, rows, sums, team.block == 0};
  if (!fill_table(a, epoch, table)) return;
  if (a.layout == DeviceLayout::kBySource) {
    const Arrivals arrivals(g, table, static_cast<int>(threadIdx.x) * team.blocks + team.block,
                            kThreads * team.blocks);
    int source = 0;
    int row = 0;
    for (int i = 0; arrivals.has(i); ++i) {
      if (arrivals.find(i, source, row) && !receive_row_of_source(a, epoch, source, row)) break;
    }
  } else {
    place_arrivals<kPayload>(
        a, epoch, Arrivals(g, table, warp_id() * team.blocks + team.block, kWarps * team.blocks));
  }
  __syncwarp();
  if (blockIdx.x == gridDim.x - 1) copy_all_counts(a, epoch, {0, 1});
}

template <Payload kPayload>
__global__ void __launch_bounds__(kThreads, 1)
    dispatch_kernel(const __grid_constant__ DispatchArgs a) {
  extern __shared__ __align__(16) uint32_t memory[];
  const GroupView& g = a.group;
  ptx::wait_for_previous_kernel();
  const uint32_t epoch = next_epoch(g.state->dispatch_epoch);
  if (must_skip(g, Phase::kDispatch, epoch)) return;
  announce(g, g.at.dispatch_ready, epoch);
  if (static_cast<int>(blockIdx.x) < a.push_blocks) {
    push<kPayload>(a, epoch, memory);
  } else {
    receive<kPayload>(a, epoch, memory);
  }
  finish_phase(&g.state->dispatch_epoch);
}

int64_t shared_bytes(const Shape& shape) {
  const int64_t push = static_cast<int64_t>(sizeof(Outbox)) +
                       int64_t{4} * RowCounters::words(kPushWarps, shape.num_ranks);
  const int64_t counts = int64_t{shape.num_slots} * scan_warps(shape.num_slots, kWarps);
  return std::max(push, int64_t{4} * (kMaxNvlinkRanks + kWarps + counts));
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
  const int bytes = static_cast<int>(shared_bytes(args.group.shape));
  return launch_kernel(kernel, launch, kThreads, bytes, args);
}

}  // namespace wideep::alltoall
