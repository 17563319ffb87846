// Dispatch of a large batch by source rank, one kernel of two teams of blocks. A pushing block's
// warps each take a token, read its row once and write it once to every rank that has one of its
// slots, to where it stays; its last warp publishes what has been stored, with headers that carry
// the epoch. The other blocks meanwhile work out the headers' indices, then wait for the headers.
#include <algorithm>

#include "alltoall/nvlink_kernels.h"
#include "alltoall/nvlink_launch.h"
#include "alltoall/nvlink_push.cuh"
#include "alltoall/nvlink_rows.cuh"
#include "alltoall/nvlink_teams.cuh"

namespace wideep::alltoall {
namespace {

using namespace device;  // NOLINT: the kernels' own vocabulary

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kPushWarps = kWarps - 1;  // of a pushing block; the last one publishes
constexpr unsigned kGatherNanoseconds = 1000;

template <Payload kPayload>
__device__ void push_row(const DispatchArgs& a, int token, const Route& route, uint32_t leaders) {
  const GroupView& g = a.group;
  Places rows;
  Places scales;
  rows.lanes = scales.lanes = leaders;
  if (route.row >= 0) {
    const int64_t landing = static_cast<int64_t>(g.rank) * g.shape.max_tokens + route.row;
    rows.to = g.peers[route.rank] + g.at.rows + landing * a.row_bytes;
    scales.to = g.peers[route.rank] + g.at.scales + landing * g.shape.scale_bytes;
  }
  const std::byte* from = a.rows + token * a.row_stride;
  if constexpr (kPayload == Payload::kQuantize) {
    quantize_row<2>(from, a.scale_columns, rows, scales);
  } else {
    spread_row<7>(from, static_cast<int>(a.row_bytes / kVectorBytes), rows);
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

template <Payload kPayload>
__device__ bool push_tokens(const DispatchArgs& a, uint32_t epoch, const RowCounters& counters,
                            RawRoute next, Outbox& outbox) {
  const GroupView& g = a.group;
  const int warp = warp_id();
  const Range tokens = tokens_of(a, warp, kPushWarps);
  int count = 0;
  for (int token = tokens.begin; token < tokens.end; ++token) {
    const Route route = make_route(g, next, warp, counters);
    next = look_up(a, token + 1, tokens.end);
    const uint32_t leaders = __ballot_sync(kFullWarp, route.row >= 0);
    push_row<kPayload>(a, token, route, leaders);
    const uint32_t own = __ballot_sync(kFullWarp, route.rank == g.rank && route.row >= 0);
    const int own_row = __shfl_sync(kFullWarp, route.row, __ffs(static_cast<int>(own)) - 1);
    if (lane_id() == 0) g.own_row[token] = own == 0 ? -1 : own_row;
    // The first row has left by now, at the latest.
    if (count == 0 && !wait_scanned(g, epoch)) return false;
    while (outbox.published[warp] <= count - Outbox::kDepth) {
    }
    Head(&heads)[kMaxTopK] = outbox.heads[warp][count % Outbox::kDepth];
    if (lane_id() < a.top_k) heads[lane_id()].at = nullptr;
    __syncwarp();
    write_headers(a, token, route, leaders, epoch, [&](Packet* header, const Packet& packet) {
      heads[lane_id()] = {header, packet.word[0], packet.word[1]};
    });
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
    const Range tokens = tokens_of(a, lane, kPushWarps);
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

// A pushing block.
template <Payload kPayload>
__device__ void push(const DispatchArgs& a, uint32_t epoch, uint32_t* memory) {
  Outbox& outbox = *reinterpret_cast<Outbox*>(memory);
  uint32_t* words = memory + sizeof(Outbox) / 4;
  const int ranks = a.group.shape.num_ranks;
  const RowCounters counters = {words, words + kPushWarps * ranks, kPushWarps, ranks};
  const int warp = warp_id();
  if (lane_id() == 0 && warp < kPushWarps) {
    outbox.stored[warp] = 0;
    outbox.published[warp] = 0;
  }
  RawRoute next;
  if (!begin_rows(a, epoch, counters, next)) return;
  if (warp == kPushWarps) {
    publish(a, epoch, outbox);
  } else if (!push_tokens<kPayload>(a, epoch, counters, next, outbox) && lane_id() == 0) {
    outbox.stored[warp] = Outbox::kStopped;
  }
}

// Waits for the headers of all rows, each thread for its share.
__device__ void receive(const DispatchArgs& a, uint32_t epoch, const Team& team,
                        const ReceiveTable& table) {
  const Arrivals arrivals(a.group, table, a.group.shape.num_ranks,
                          static_cast<int>(threadIdx.x) * team.blocks + team.block,
                          kThreads * team.blocks);
  int source = 0;
  int row = 0;
  for (int i = 0; arrivals.has(i); ++i) {
    if (arrivals.find(i, source, row) && !receive_row_of_source(a, epoch, source, row)) return;
  }
}

template <Payload kPayload>
__global__ void __launch_bounds__(kThreads, 1)
    dispatch_by_source_kernel(const __grid_constant__ DispatchArgs a) {
  extern __shared__ __align__(16) uint32_t memory[];
  run_teams<kWarps>(
      a, memory, [&](uint32_t epoch) { push<kPayload>(a, epoch, memory); },
      [&](uint32_t epoch, const Team& team, const ReceiveTable& table) {
        receive(a, epoch, team, table);
      });
}

int64_t shared_bytes(const Shape& shape) {
  const int64_t push = static_cast<int64_t>(sizeof(Outbox)) +
                       int64_t{4} * RowCounters::words(kPushWarps, shape.num_ranks);
  return std::max(push, receiving_bytes(shape, kWarps));
}

constexpr DispatchKernels kKernels = {dispatch_by_source_kernel<Payload::kBytes>,
                                      dispatch_by_source_kernel<Payload::kQuantize>};

}  // namespace

cudaError_t load_dispatch_by_source() {
  return kKernels.load();
}

cudaError_t launch_dispatch_by_source(const Launch& launch, Payload payload,
                                      const DispatchArgs& args) {
  return kKernels.launch(launch, payload, kThreads, shared_bytes(args.group.shape), args);
}

}  // namespace wideep::alltoall
