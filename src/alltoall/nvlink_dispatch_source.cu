// Dispatch of a large batch by source rank, one kernel of two teams of blocks. In a pushing block
// some warps move rows: the copy engine brings each to shared memory once and takes it to every
// rank that has one of its slots, to where it stays. As many warps write the rows' headers
// meanwhile, and a last one, with one fence for all rows that have arrived, the first packets of
// the headers, which carry the epoch. The other blocks work out the headers' indices, then wait for
// the headers.
#include <algorithm>

#include "alltoall/nvlink_kernels.h"
#include "alltoall/nvlink_launch.h"
#include "alltoall/nvlink_rows.cuh"
#include "alltoall/nvlink_steps.cuh"
#include "alltoall/nvlink_teams.cuh"

namespace wideep::alltoall {
namespace {

using namespace device;  // NOLINT: the kernels' own vocabulary

constexpr int kMovers = 8;               // warps of a pushing block that move rows;
constexpr int kPublisher = 2 * kMovers;  // as many write headers, and this one publishes
constexpr int kWarps = kPublisher + 1;
constexpr int kThreads = 32 * kWarps;
constexpr unsigned kPollNanoseconds = 100;

// What a run's warps hand to the one that publishes, and back, in counts of the run's tokens.
struct Outbox {
  static constexpr int kStopped = 1 << 30;

  volatile int arrived;    // whose rows are where they go
  volatile int written;    // whose headers are there, but for the heads
  volatile int published;  // whose heads may be overwritten
  Head heads[32];          // of the last step that was written
};

// Of a pushing block.
struct Shared {
  RowRing::Memory rings[kMovers];
  uint64_t full[kMovers][RowRing::kPlaces];
  Outbox outboxes[kMovers];
};

// Where this lane's row and its scales go; null: it has none.
struct Landing {
  std::byte* row = nullptr;
  std::byte* scales = nullptr;
};

__device__ Landing landing_of(const DispatchArgs& a, const Route& route) {
  const GroupView& g = a.group;
  if (route.row < 0) return {};
  const int64_t row = static_cast<int64_t>(g.rank) * g.shape.max_tokens + route.row;
  return {g.peers[route.rank] + g.at.rows + row * a.row_bytes,
          g.peers[route.rank] + g.at.scales + row * g.shape.scale_bytes};
}

constexpr int kGroupBytes = 2 * kScaleGroup;  // of columns that share a scale, as BF16

template <Payload kPayload>
__device__ Cut cut_of(const DispatchArgs& a) {
  if (kPayload == Payload::kQuantize) return {2 * a.row_bytes, kGroupsAtOnce * kGroupBytes};
  return {a.row_bytes, kVectorBytes};
}

// Sends a piece of a row, as it is or quantised: each lane to its place.
template <Payload kPayload>
__device__ void send_piece(const Landing& landing, int offset, std::byte* piece, int bytes) {
  if constexpr (kPayload == Payload::kQuantize) {
    const int groups = bytes / kGroupBytes;
    std::byte* const scales = piece + Cut::kMostBytes / 2;
    quantize_piece(piece, groups, reinterpret_cast<float*>(scales));
    ptx::fence_shared_for_bulk();
    __syncwarp();
    if (landing.row == nullptr) return;
    ptx::store_bulk(landing.row + offset / 2, piece, bytes / 2);
    ptx::store_bulk(landing.scales + int64_t{4} * (offset / kGroupBytes), scales,
                    (4 * groups + kVectorBytes - 1) / kVectorBytes * kVectorBytes);
  } else if (landing.row != nullptr) {
    ptx::store_bulk(landing.row + offset, piece, bytes);
  }
}

// Moves the rows of a run's tokens.
template <Payload kPayload>
__device__ void move_rows(const DispatchArgs& a, const Cut& cut, Range tokens, RawRoute next,
                          const RowCounters& counters, RowRing& ring, Outbox& outbox) {
  // The rows that lie where these go have been read: the flags said so, which begin_rows() saw.
  ptx::fence_global_for_bulk();
  const int token_of_lane = lane_id() / a.top_k;
  for (Range step = step_of(a, tokens, tokens.begin); step.begin < step.end;
       step = step_of(a, tokens, step.end)) {
    const Landing landing = landing_of(a, make_routes(a, next, warp_id(), counters));
    next = look_up_step(a, step_of(a, tokens, step.end));
    for (int token = step.begin; token < step.end; ++token) {
      const Landing to = token_of_lane == token - step.begin ? landing : Landing{};
      if (a.scales != nullptr) {
        spread_words(a.scales + static_cast<int64_t>(token) * a.scale_columns, a.scale_columns,
                     {__ballot_sync(kFullWarp, to.row != nullptr), to.scales});
      }
      for (int offset = 0; offset < cut.row_bytes; offset += cut.piece_bytes) {
        const int bytes = min(cut.piece_bytes, cut.row_bytes - offset);
        send_piece<kPayload>(to, offset, ring.next(), bytes);
        ring.sent();
      }
      if (lane_id() == 0) {
        __threadfence_block();
        outbox.arrived = ring.arrived(token - tokens.begin + 1);
      }
    }
  }
  ptx::wait_bulk<0>();
  __syncwarp();
  if (lane_id() == 0) {
    __threadfence_block();
    outbox.arrived = tokens.end - tokens.begin;
  }
}

// Keeps each token's row among those for this rank.
__device__ void keep_own_rows(const DispatchArgs& a, Range tokens, const Route& route) {
  const uint32_t own = __ballot_sync(kFullWarp, route.row >= 0 && route.rank == a.group.rank);
  const int token = tokens.begin + lane_id() / a.top_k;
  const int first = lane_id() / a.top_k * a.top_k;
  const uint32_t of_token = own >> first & ((1U << a.top_k) - 1);
  const int row = __shfl_sync(kFullWarp, route.row, first + __ffs(static_cast<int>(of_token)) - 1);
  if (lane_id() == first && token < tokens.end) {
    a.group.own_row[token] = of_token == 0 ? -1 : row;
  }
}

// Writes the headers of a run's tokens, but for the heads. False where a rank gave up.
__device__ bool write_headers(const DispatchArgs& a, uint32_t epoch, Range tokens, RawRoute next,
                              int run, const RowCounters& counters, Outbox& outbox) {
  if (!wait_scanned(a.group, epoch)) return false;
  for (Range step = step_of(a, tokens, tokens.begin); step.begin < step.end;
       step = step_of(a, tokens, step.end)) {
    const Route route = make_routes(a, next, run, counters);
    next = look_up_step(a, step_of(a, tokens, step.end));
    keep_own_rows(a, step, route);
    const Head head = write_copies(a, step, route, epoch);
    // Those of the step before have left.
    while (__any_sync(kFullWarp, outbox.published < step.begin - tokens.begin)) {
      __nanosleep(kPollNanoseconds);
    }
    outbox.heads[lane_id()] = head;
    __threadfence_block();
    __syncwarp();
    if (lane_id() == 0) outbox.written = step.end - tokens.begin;
  }
  return true;
}

// Publishes the rows of all runs as they arrive, by one warp; lane r looks after run r.
__device__ void publish(const DispatchArgs& a, Outbox* outboxes) {
  const int lane = lane_id();
  const int at_once = 32 / a.top_k;
  int published = 0;
  int tokens = 0;
  if (lane < kMovers) {
    const Range run = tokens_of(a, lane, kMovers);
    tokens = run.end - run.begin;
  }
  while (__any_sync(kFullWarp, published < tokens)) {
    int ready = published;
    if (published < tokens) {
      const int written = outboxes[lane].written;
      ready = written == Outbox::kStopped ? tokens : min(written, outboxes[lane].arrived);
      if (written == Outbox::kStopped) published = tokens;
    }
    uint32_t runs = __ballot_sync(kFullWarp, ready > published);
    if (runs == 0) {
      __nanosleep(kPollNanoseconds);
      continue;
    }
    // Every lane, because every lane publishes: what the movers saw arrive, their stores' groups
    // ended, comes before what follows.
    __threadfence_block();
    __syncwarp();
    ptx::fence_sys();
    for (; runs != 0; runs &= runs - 1) {
      const int run = __ffs(static_cast<int>(runs)) - 1;
      const int begin = __shfl_sync(kFullWarp, published, run);
      const int end = __shfl_sync(kFullWarp, ready, run);
      const int token = begin / at_once * at_once + lane / a.top_k;
      const Head head = outboxes[run].heads[lane];
      if (head.at != nullptr && token >= begin && token < end) {
        ptx::store_relaxed(head.at, head.packet);
      }
    }
    __syncwarp();  // all have read the heads
    published = ready;
    if (lane < kMovers) outboxes[lane].published = published;
  }
}

// A pushing block.
template <Payload kPayload>
__device__ void push(const DispatchArgs& a, uint32_t epoch, Shared& s) {
  const int ranks = a.group.shape.num_ranks;
  const int warp = warp_id();
  const int run = warp % kMovers;
  const bool moves = warp < kMovers;
  const Range tokens = tokens_of(a, run, kMovers);
  const Cut cut = cut_of<kPayload>(a);
  RowRing ring(a, tokens, cut, s.rings[run], s.full[run]);
  Outbox& outbox = s.outboxes[run];
  if (moves) ring.begin();  // before places are known
  if (moves && lane_id() == 0) {
    outbox.arrived = 0;
    outbox.written = 0;
    outbox.published = 0;
  }
  const int words = kMovers * ranks;
  auto* const counters = reinterpret_cast<uint32_t*>(&s + 1);
  const RawRoute next = look_up_step(a, step_of(a, tokens, tokens.begin));
  const RowCounters moved = {counters, counters + words, kMovers, ranks};
  const RowCounters written = {counters + words + ranks, nullptr, kMovers, ranks};
  if (!begin_rows(a, epoch, moved)) {
    if (moves) ring.abandon();
    return;
  }
  for (int i = static_cast<int>(threadIdx.x); i < words; i += kThreads) {
    written.of_run[i] = moved.of_run[i];
  }
  __syncthreads();
  if (moves) {
    move_rows<kPayload>(a, cut, tokens, next, moved, ring, outbox);
  } else if (warp == kPublisher) {
    publish(a, s.outboxes);
  } else if (!write_headers(a, epoch, tokens, next, run, written, outbox) && lane_id() == 0) {
    outbox.written = Outbox::kStopped;
  }
}

// Waits for the headers of all rows, each thread for its share, in whatever order they come.
__device__ void receive(const DispatchArgs& a, uint32_t epoch, const Team& team,
                        const ReceiveTable& table) {
  const Arrivals arrivals(a.group, table, a.group.shape.num_ranks,
                          static_cast<int>(threadIdx.x) * team.blocks + team.block,
                          kThreads * team.blocks);
  int source = 0;
  int row = 0;
  for (int first = 0; arrivals.has(first); first += 32) {
    uint32_t left = 0;
    for (int i = 0; i < 32 && arrivals.has(first + i); ++i) {
      if (arrivals.find(first + i, source, row)) left |= 1U << i;
    }
    if (left == 0) continue;
    Wait wait = {};
    const bool ok = wait_for(a.group, wait, [&](uint64_t& seen) {
      for (uint32_t some = left; some != 0; some &= some - 1) {
        const int i = __ffs(static_cast<int>(some)) - 1;
        arrivals.find(first + i, source, row);
        if (receive_row_of_source(a, epoch, source, row, seen)) {
          left &= ~(1U << i);
        } else {
          wait = wait_of_row(source, epoch, row);
        }
      }
      return left == 0;
    });
    if (!ok) return;
  }
}

template <Payload kPayload>
__global__ void __launch_bounds__(kThreads, 1)
    dispatch_by_source_kernel(const __grid_constant__ DispatchArgs a) {
  extern __shared__ __align__(128) uint32_t memory[];
  run_teams<kWarps>(
      a, memory,
      [&](uint32_t epoch) { push<kPayload>(a, epoch, *reinterpret_cast<Shared*>(memory)); },
      [&](uint32_t epoch, const Team& team, const ReceiveTable& table) {
        receive(a, epoch, team, table);
      });
}

int64_t shared_bytes(const Shape& shape) {
  const int64_t push =
      static_cast<int64_t>(sizeof(Shared)) + int64_t{4} * (2 * kMovers + 1) * shape.num_ranks;
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
