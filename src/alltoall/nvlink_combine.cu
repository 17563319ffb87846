// Combine of a large batch, one kernel. Some blocks push: they sum the copies of received rows and
// write the sums to the tokens' ranks (exact: every copy as it is), with a flag that carries the
// epoch. The others finish: they wait for a token's flags and sum what came back in the order of
// the ranks (exact: of k), while later rows still cross the links.
//
// A warp sums a row alone, from its own ring in shared memory. In blocks that push, a warp of its
// own publishes flags: its fences wait for the links, and one serves all items that were stored
// meanwhile.
#include "alltoall/nvlink_kernels.h"
#include "alltoall/nvlink_launch.h"
#include "alltoall/nvlink_regime.h"
#include "alltoall/nvlink_ring.cuh"
#include "alltoall/nvlink_sums.cuh"

namespace wideep::alltoall {
namespace {

using namespace device;  // NOLINT: the kernels' own vocabulary

constexpr int kSumWarps = 11;  // with the publisher 12, of 168 registers a thread
constexpr int kThreads = 32 * (kSumWarps + 1);
constexpr int kItems = 32;  // stored and not yet published

struct Shared {
  uint64_t stored[kItems];  // an item's sums have left the warp
  uint32_t* flags[kItems];
  volatile int published;            // items
  int begun;                         // items
  int pushing;                       // warps
  int source_rows[kMaxNvlinkRanks];  // that came from each rank; 0 where it is masked
};
constexpr int kSharedHead = (sizeof(Shared) + 127) / 128 * 128;
using Ring = SumRing<(kSharedMemoryOfKernel - kSharedHead) / kSumWarps / kChunkBytes>;

__device__ std::byte* partial_of(const GroupView& g, std::byte* owner, int place, int token) {
  const int64_t row = static_cast<int64_t>(place) * g.shape.max_tokens + token;
  return owner + g.at.partials + row * g.shape.result_bytes;
}
__device__ uint32_t* flag_of(const GroupView& g, std::byte* owner, int place, int token) {
  return at<uint32_t>(owner, g.at.partial_flags) +
         static_cast<int64_t>(place) * g.shape.max_tokens + token;
}

// A received row and its copies; lane i has the i-th copy.
struct Work {
  ReceivedRow row;
  Copy copy;
};

__device__ Work load_work(const CombineArgs& a, int source, int row) {
  const int64_t landed = static_cast<int64_t>(source) * a.group.shape.max_tokens + row;
  Work work;
  work.row = a.group.received[landed];
  if (lane_id() < (a.group.shape.by_source ? 1 : a.top_k)) {
    work.copy = a.group.copies[landed * a.group.shape.top_k + lane_id()];
  }
  return work;
}

__device__ const std::byte* row_of(const CombineArgs& a, int row) {
  return a.rows + row * a.row_stride;
}

__device__ uint32_t first_lanes(int count) {
  return count >= 32 ? kFullWarp : (1U << count) - 1;
}

// The warps that do the same, of all blocks. Rows and tokens are dealt to them like cards, so that
// all push and finish the front of the batch first: whatever the routing, a token's rows come at
// about the time that it is waited for.
struct Crew {
  int warp;
  int warps;
};

// Hands a stored item to the publisher.
struct HandOver {
  Shared& s;

  __device__ void operator()(int number) const {
    __syncwarp();
    if (lane_id() == 0) ptx::arrive(&s.stored[number]);
  }
};

// Sums a row, or the copies in `present` of it, into the place of the token that this rank has.
__device__ void push_item(const CombineArgs& a, Shared& s, Ring& ring, int source, int place,
                          int token, const Addend& addend, uint32_t present) {
  const GroupView& g = a.group;
  int item = lane_id() == 0 ? atomicAdd(&s.begun, 1) : 0;
  item = __shfl_sync(kFullWarp, item, 0);
  if (__any_sync(kFullWarp, s.published <= item - kItems)) {
    ring.drain(HandOver{s});  // what is waited for may be this warp's own
    while (s.published <= item - kItems) {
    }
  }
  const int number = item % kItems;
  if (lane_id() == 0) s.flags[number] = flag_of(g, g.peers[source], place, token);
  std::byte* to = partial_of(g, g.peers[source], place, token);
  ring.add({to, static_cast<int>(g.shape.result_bytes), number}, addend, present, HandOver{s});
}

__device__ void push_row(const CombineArgs& a, Shared& s, Ring& ring, int source,
                         const Work& work) {
  const int token = work.row.token;
  const std::byte* row = row_of(a, work.copy.row);
  if (!a.group.shape.exact) {
    push_item(a, s, ring, source, work.row.partial, token, {row, work.copy.weight, 0},
              first_lanes(work.row.copies));
    return;
  }
  for (int i = 0; i < work.row.copies; ++i) {
    push_item(a, s, ring, source, __shfl_sync(kFullWarp, work.copy.k, i), token, {row, 1, 0},
              1U << i);
  }
}

__device__ void push_rows(const CombineArgs& a, Shared& s, Ring& ring, const Crew& crew,
                          uint32_t epoch) {
  const GroupView& g = a.group;
  if (wait_all_ready(g, g.at.combine_ready, Phase::kCombine, epoch)) {
    int longest = 0;
    for (int r = 0; r < g.shape.num_ranks; ++r) longest = max(longest, s.source_rows[r]);
    for (int row = crew.warp; row < longest; row += crew.warps) {
      for (int i = 1; i < g.shape.num_ranks; ++i) {
        const int source =
            g.rank + i < g.shape.num_ranks ? g.rank + i : g.rank + i - g.shape.num_ranks;
        if (row < s.source_rows[source]) push_row(a, s, ring, source, load_work(a, source, row));
      }
    }
    ring.drain(HandOver{s});
  }
  __syncwarp();
  if (lane_id() == 0) {
    __threadfence_block();
    atomicSub(&s.pushing, 1);
  }
}

// Publishes items in their order, as many with one fence as are there. By one thread.
__device__ void publish(Shared& s, uint32_t epoch) {
  const auto is_stored = [&](int item) {
    return ptx::test_wait(&s.stored[item % kItems], static_cast<uint32_t>(item / kItems) & 1U);
  };
  int item = 0;
  for (;;) {
    // In this order: no item begins after the last warp has ended.
    const bool ended = *static_cast<volatile int*>(&s.pushing) == 0;
    __threadfence_block();
    if (ended && item == *static_cast<volatile int*>(&s.begun)) return;
    int end = item;
    while (end < item + kItems && is_stored(end)) ++end;
    if (end == item) continue;
    ptx::fence_sys();
    for (; item < end; ++item) ptx::store_relaxed(s.flags[item % kItems], epoch);
    s.published = item;
  }
}

// Whether the rows of a token that other ranks send are here; after true they can be read.
__device__ bool are_rows_here(const CombineArgs& a, int token, const Returns& returns,
                              uint32_t epoch) {
  const GroupView& g = a.group;
  bool here = true;
  if (lane_id() < returns.count && returns.rank >= 0 && returns.rank != g.rank) {
    here = ptx::load_acquire(flag_of(g, g.self, lane_id(), token)) == epoch;
  }
  here = __all_sync(kFullWarp, here);
  __syncwarp();  // what one lane acquired, all may read
  return here;
}

__device__ bool wait_rows(const CombineArgs& a, int token, const Returns& returns, uint32_t epoch) {
  const GroupView& g = a.group;
  bool ok = true;
  if (lane_id() < returns.count && returns.rank >= 0 && returns.rank != g.rank) {
    const uint32_t* flag = flag_of(g, g.self, lane_id(), token);
    const Wait wait = {Phase::kCombine, Awaited::kPartial, returns.rank, epoch, token, epoch};
    ok = wait_for(g, wait, [&](uint64_t& seen) {
      const uint32_t value = ptx::load_acquire(flag);
      seen = value;
      return value == epoch;
    });
  }
  ok = __all_sync(kFullWarp, ok);
  __syncwarp();
  return ok;
}

// The rows that make a token: this lane's, and the lanes that have one.
struct TokenRows {
  Addend addend;
  uint32_t present;
};

// In the order of k.
__device__ TokenRows rows_by_k(const CombineArgs& a, int token, const Returns& returns,
                               const Work& own) {
  const GroupView& g = a.group;
  const int own_row = __shfl_sync(kFullWarp, own.copy.row, max(returns.own_copy, 0));
  const bool has_row = lane_id() < returns.count && returns.rank >= 0;
  TokenRows rows = {};
  rows.present = __ballot_sync(kFullWarp, has_row);
  rows.addend.weight = returns.weight;
  if (has_row) {
    rows.addend.row =
        returns.rank == g.rank ? row_of(a, own_row) : partial_of(g, g.self, lane_id(), token);
  }
  return rows;
}

// In the order of ranks: a row from each of the others, and in this rank's place its own copies,
// which are summed and rounded as the others' were.
__device__ TokenRows rows_by_rank(const CombineArgs& a, int token, const Returns& returns,
                                  const Work& own) {
  const GroupView& g = a.group;
  const bool has_rank = lane_id() < returns.count;
  const int before = __popc(__ballot_sync(kFullWarp, has_rank && returns.rank < g.rank));
  const int here = __popc(__ballot_sync(kFullWarp, has_rank && returns.rank == g.rank));
  const int copies = here != 0 ? own.row.copies : 0;
  const int copy = lane_id() - before;
  const int own_row = __shfl_sync(kFullWarp, own.copy.row, max(copy, 0) % 32);
  const float own_weight = __shfl_sync(kFullWarp, own.copy.weight, max(copy, 0) % 32);
  TokenRows rows = {};
  rows.present = first_lanes(returns.count - here + copies);
  if (copy >= 0 && copy < copies) {
    rows.addend = {row_of(a, own_row), own_weight, kOfPart | (copy == copies - 1 ? kEndsPart : 0U)};
  } else {
    const int place = copy < 0 ? lane_id() : lane_id() - copies + here;
    rows.addend.row = partial_of(g, g.self, place, token);
  }
  return rows;
}

// Adds the residual at the end, or stands for a token that gets nothing.
__device__ void complete(const CombineArgs& a, int token, TokenRows& rows) {
  const int end = rows.present == 0 ? 0 : 32 - __clz(static_cast<int>(rows.present));
  if (a.residual != nullptr) {
    if (lane_id() == end) rows.addend = {a.residual + token * a.residual_stride, 1, 0};
    rows.present |= 1U << end;
  } else if (rows.present == 0) {
    rows.addend.flags = kNoRow;
    rows.present = 1;
  }
}

__device__ void finish_tokens(const CombineArgs& a, Ring& ring, const Crew& crew, uint32_t epoch) {
  const GroupView& g = a.group;
  const auto done = [](int) {};
  for (int token = crew.warp; token < a.tokens; token += crew.warps) {
    const TokenPair pair = load_pair(a, token, a.tokens);
    const int own_row = g.own_row[token];
    const Work own = load_work(a, g.rank, max(own_row, 0));
    const Returns returns = make_returns(a, pair);
    if (!are_rows_here(a, token, returns, epoch)) {
      ring.drain(done);
      if (!wait_rows(a, token, returns, epoch)) return;
    }
    TokenRows rows = a.group.shape.exact ? rows_by_k(a, token, returns, own)
                                         : rows_by_rank(a, token, returns, own);
    complete(a, token, rows);
    std::byte* to = a.out + token * a.out_stride;
    ring.add({to, static_cast<int>(g.shape.result_bytes), 0}, rows.addend, rows.present, done);
  }
  ring.drain(done);
}

__global__ void __launch_bounds__(kThreads, 1)
    combine_kernel(const __grid_constant__ CombineArgs a) {
  extern __shared__ __align__(128) std::byte memory[];
  const GroupView& g = a.group;
  ptx::wait_for_previous_kernel();
  const uint32_t epoch = next_epoch(g.state->combine_epoch);
  if (must_skip(g, Phase::kCombine, epoch)) return;
  announce(g, g.at.combine_ready, epoch);
  Shared& s = *reinterpret_cast<Shared*>(memory);
  const int block = static_cast<int>(blockIdx.x);
  const bool pushes = block < a.push_blocks;
  if (threadIdx.x < kItems) ptx::init_barrier(&s.stored[threadIdx.x], 1);
  if (threadIdx.x == 0) {
    s.published = 0;
    s.begun = 0;
    s.pushing = kSumWarps;
  }
  for (int r = static_cast<int>(threadIdx.x); r < g.shape.num_ranks; r += kThreads) {
    s.source_rows[r] = is_active(r) && r != g.rank ? g.source_rows[r] : 0;
  }
  __syncthreads();
  const int warp = warp_id();
  if (warp < kSumWarps) {
    Ring ring(memory + kSharedHead + warp * Ring::kBytes);
    if (pushes) {
      push_rows(a, s, ring, {block * kSumWarps + warp, a.push_blocks * kSumWarps}, epoch);
    } else {
      const int blocks = static_cast<int>(gridDim.x) - a.push_blocks;
      const int crew_warp = warp * blocks + block - a.push_blocks;
      finish_tokens(a, ring, {crew_warp, blocks * kSumWarps}, epoch);
    }
  } else if (pushes && lane_id() == 0) {
    publish(s, epoch);
  }
  finish_phase(&g.state->combine_epoch);
}

}  // namespace

cudaError_t load_combine() {
  return allow_shared_memory(combine_kernel);
}

cudaError_t launch_combine(const Launch& launch, const CombineArgs& args) {
  return launch_kernel(combine_kernel, launch, kThreads, kSharedMemoryOfKernel, args);
}

}  // namespace wideep::alltoall
