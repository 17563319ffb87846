// Combine of a large batch, one kernel of two pipelines a block. The push pipeline sums the copies
// of received rows and writes the sums to the tokens' ranks (exact: every copy as it is), with a
// flag that carries the epoch. The finish pipeline waits for a token's flags and sums what came
// back in the order of the ranks (exact: of k), while later rows still cross the links.
//
// In each, one warp looks up rows and has the copy engine fetch them into a ring in shared memory,
// and eight warps sum them. A warp of its own publishes flags: its fences wait for the links, and
// one fence serves all items that were stored meanwhile.
#include "alltoall/nvlink_kernels.h"
#include "alltoall/nvlink_launch.h"
#include "alltoall/nvlink_regime.h"
#include "alltoall/nvlink_ring.cuh"
#include "alltoall/nvlink_sums.cuh"

namespace wideep::alltoall {
namespace {

using namespace device;  // NOLINT: the kernels' own vocabulary

constexpr int kSumWarps = 8;
constexpr int kSumThreads = 32 * kSumWarps;
constexpr int kVectors = 4;  // of a thread: 16 KiB a block of columns
constexpr int kEntryBytes = kSumThreads * kVectors * kVectorBytes;
// Warps: sums of push, sums of finish, then one for each of these.
constexpr int kPushFetcher = 2 * kSumWarps;
constexpr int kFinishFetcher = kPushFetcher + 1;
constexpr int kPublisher = kFinishFetcher + 1;
constexpr int kThreads = 32 * (kPublisher + 1);
constexpr int kItems = 16;  // stored and not yet published

struct Shared {
  RingState push;
  RingState finish;
  uint64_t stored[kItems];  // an item's sums have left all warps
  uint32_t* flags[kItems];
  volatile int published;  // items
  volatile int total;      // items of this block; -1: not known yet
};
constexpr int kSharedHead = (sizeof(Shared) + 127) / 128 * 128;
constexpr int kRingBytes = (kSharedMemoryOfKernel - kSharedHead) / 2 / 128 * 128;

__device__ std::byte* partial_of(const GroupView& g, std::byte* owner, int place, int token) {
  const int64_t row = static_cast<int64_t>(place) * g.shape.max_tokens + token;
  return owner + g.at.partials + row * g.shape.result_bytes;
}
__device__ uint32_t* flag_of(const GroupView& g, std::byte* owner, int place, int token) {
  return at<uint32_t>(owner, g.at.partial_flags) +
         static_cast<int64_t>(place) * g.shape.max_tokens + token;
}

// Columns of a row that go through the ring at a time.
struct Columns {
  int row_bytes;
  int block_bytes;

  __device__ explicit Columns(const GroupView& g)
      : row_bytes(static_cast<int>(g.shape.result_bytes)) {
    const int blocks = (row_bytes + kEntryBytes - 1) / kEntryBytes;
    block_bytes = (row_bytes / kVectorBytes + blocks - 1) / blocks * kVectorBytes;
  }
  __device__ int bytes(int offset) const { return min(block_bytes, row_bytes - offset); }
  __device__ bool is_last(int offset) const { return offset + block_bytes >= row_bytes; }
};

// A received row and its copies, as they were loaded; lane i has the i-th copy.
struct Work {
  ReceivedRow row;
  Copy copy;
};

__device__ Work load_work(const CombineArgs& a, int source, int row) {
  const int64_t landed = static_cast<int64_t>(source) * a.group.shape.max_tokens + row;
  Work work;
  work.row = a.group.received[landed];
  if (lane_id() < (a.by_source ? 1 : a.top_k)) {
    work.copy = a.group.copies[landed * a.group.shape.top_k + lane_id()];
  }
  return work;
}

__device__ const std::byte* row_of_copy(const CombineArgs& a, const Work& work, int copy) {
  return a.rows + __shfl_sync(kFullWarp, work.copy.row, copy) * a.row_stride;
}

// Fetches the copies of a row, as the parts of one item or as a part of it.
__device__ void put_copies(const CombineArgs& a, Ring& ring, const Work& work, RowTask task) {
  const uint32_t flags = task.flags;
  for (int c = 0; c < work.row.copies; ++c) {
    task.weight = __shfl_sync(kFullWarp, work.copy.weight, c);
    task.flags = 0;
    if (c == 0) task.flags |= (flags & kFirstOfItem) | kFirstOfPart;
    if (c == work.row.copies - 1) task.flags |= (flags & (kLastOfItem | kComplete)) | kLastOfPart;
    ring.put(row_of_copy(a, work, c) + task.offset, task);
  }
}

// Waits for room among the items to be published, and names the next one's flag.
__device__ void begin_item(Shared& s, int item, uint32_t* flag) {
  if (lane_id() == 0) {
    while (s.published <= item - kItems) {
    }
    s.flags[item % kItems] = flag;
  }
  __syncwarp();
}

__device__ void fetch_row(const CombineArgs& a, Ring& ring, Shared& s, int source, const Work& work,
                          int& item) {
  const GroupView& g = a.group;
  const Columns columns(g);
  RowTask task = {};
  const int token = work.row.token;
  const int items = a.exact ? work.row.copies : 1;
  for (int i = 0; i < items; ++i) {
    const int place = a.exact ? __shfl_sync(kFullWarp, work.copy.k, i) : work.row.partial;
    begin_item(s, item++, flag_of(g, g.peers[source], place, token));
    std::byte* to = partial_of(g, g.peers[source], place, token);
    for (int offset = 0; offset < columns.row_bytes; offset += columns.block_bytes) {
      task.to = to + offset;
      task.bytes = columns.bytes(offset);
      task.offset = offset;
      task.flags = kFirstOfItem | kFirstOfPart | kLastOfPart | kLastOfItem |
                   (columns.is_last(offset) ? kComplete : 0U);
      if (a.exact) {
        task.weight = 1;
        ring.put(row_of_copy(a, work, i) + offset, task);
      } else {
        put_copies(a, ring, work, task);
      }
    }
  }
}

// This block's rows of all other sources in turn. Rows and tokens are dealt to the blocks like
// cards, so that all blocks push and finish the front of the batch first: whatever the routing, a
// token's rows come at about the time that it is waited for.
struct PushItems {
  int num_ranks;
  int rank;
  int longest = 0;  // rows of this block from one source

  __device__ explicit PushItems(const GroupView& g) : num_ranks(g.shape.num_ranks), rank(g.rank) {
    const int blocks = static_cast<int>(gridDim.x);
    for (int r = 0; r < num_ranks; ++r) {
      if (r != rank && is_active(r))
        longest = max(longest, (g.source_rows[r] + blocks - 1) / blocks);
    }
  }
  // The first existing item from `i` on; false at the end.
  __device__ bool find(const GroupView& g, int& i, int& source, int& row) const {
    for (; i < longest * (num_ranks - 1); ++i) {
      source = (rank + 1 + i % (num_ranks - 1)) % num_ranks;
      row = static_cast<int>(blockIdx.x + i / (num_ranks - 1) * gridDim.x);
      if (row < g.source_rows[source] && is_active(source)) return true;
    }
    return false;
  }
};

struct LookedUp {
  int source = -1;  // -1: none
  Work work;
};

// The next row to push, from `next` on.
__device__ LookedUp look_up(const CombineArgs& a, const PushItems& items, int& next) {
  LookedUp result;
  int row = 0;
  if (!items.find(a.group, next, result.source, row)) {
    result.source = -1;
    return result;
  }
  ++next;
  result.work = load_work(a, result.source, row);
  return result;
}

__device__ void fetch_for_push(const CombineArgs& a, Ring ring, Shared& s, uint32_t epoch) {
  const GroupView& g = a.group;
  int item = 0;
  if (wait_all_ready(g, g.at.combine_ready, Phase::kCombine, epoch)) {
    const PushItems items(g);
    // Looked up two rows ahead.
    int next = 0;
    LookedUp first = look_up(a, items, next);
    LookedUp second = look_up(a, items, next);
    while (first.source >= 0) {
      const LookedUp current = first;
      first = second;
      second = look_up(a, items, next);
      fetch_row(a, ring, s, current.source, current.work, item);
    }
  }
  if (lane_id() == 0) s.total = item;
  RowTask stop = {};
  stop.flags = kStop;
  ring.put(nullptr, stop);
}

// Sums of received rows, written to where the tokens are.
__device__ void sum_for_push(Ring ring, Shared& s) {
  const int thread = static_cast<int>(threadIdx.x) % kSumThreads;
  int item = 0;
  Sum<kVectors> part;
  for (;;) {
    const RowTask task = ring.get();
    if ((task.flags & kStop) != 0) return;
    if ((task.flags & kFirstOfPart) != 0) part = {};
    const auto* row = reinterpret_cast<const uint4*>(ring.row());
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int v = thread + kSumThreads * i;
      if (v * kVectorBytes < task.bytes) part.add(i, row[v], task.weight);
    }
    ring.release();
    if ((task.flags & kLastOfPart) == 0) continue;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int v = thread + kSumThreads * i;
      if (v * kVectorBytes < task.bytes) {
        ptx::store_row(task.to + int64_t{kVectorBytes} * v, part.rounded(i));
      }
    }
    if ((task.flags & kComplete) == 0) continue;
    __syncwarp();
    if (lane_id() == 0) ptx::arrive(&s.stored[item % kItems]);
    ++item;
  }
}

// Publishes items in their order, as many with one fence as are there. By one thread.
__device__ void publish(Shared& s, uint32_t epoch) {
  const auto is_stored = [&](int item) {
    return ptx::test_wait(&s.stored[item % kItems], static_cast<uint32_t>(item / kItems) & 1U);
  };
  int item = 0;
  for (;;) {
    const int total = s.total;
    if (total >= 0 && item == total) return;
    int end = item;
    while (end < item + kItems && (total < 0 || end < total) && is_stored(end)) ++end;
    if (end == item) continue;
    ptx::fence_sys();
    for (; item < end; ++item) ptx::store_relaxed(s.flags[item % kItems], epoch);
    s.published = item;
  }
}

// Waits until the rows of a token that other ranks send are here; what they hold can be read after
// the next acquire_rows().
__device__ bool wait_rows(const CombineArgs& a, int token, const Returns& returns, uint32_t epoch) {
  const GroupView& g = a.group;
  bool ok = true;
  if (lane_id() < returns.count && returns.rank >= 0 && returns.rank != g.rank) {
    const uint32_t* flag = flag_of(g, g.self, lane_id(), token);
    const Wait wait = {Phase::kCombine, Awaited::kPartial, returns.rank, epoch, token, epoch};
    ok = wait_for(g, wait, [&](uint64_t& seen) {
      const uint32_t value = ptx::load_relaxed(flag);
      seen = value;
      return value == epoch;
    });
  }
  return __all_sync(kFullWarp, ok);
}

// What was published before flags that this warp has seen can be read by the copy engine.
__device__ void acquire_rows() {
  ptx::fence_sys();
  __syncwarp();
  if (lane_id() == 0) ptx::fence_copy_engine_global();
  __syncwarp();
}

// The columns of a token: one part a rank (exact: one part of all its rows).
__device__ void put_token(const CombineArgs& a, Ring& ring, const Returns& returns, const Work& own,
                          RowTask task) {
  const GroupView& g = a.group;
  const int token = static_cast<int>(task.token);
  const uint32_t present = __ballot_sync(kFullWarp, lane_id() < returns.count && returns.rank >= 0);
  const uint32_t complete = task.flags;
  if (present == 0) {
    task.flags = complete | kFirstOfItem | kFirstOfPart | kLastOfPart | kLastOfItem | kNoRow;
    ring.put(nullptr, task);
    return;
  }
  for (uint32_t left = present; left != 0; left &= left - 1) {
    const int place = __ffs(static_cast<int>(left)) - 1;
    const int rank = __shfl_sync(kFullWarp, returns.rank, place);
    const bool first = left == present;
    const bool last = (left & (left - 1)) == 0;
    task.flags = (first ? kFirstOfItem : 0U) | (last ? kLastOfItem | complete : 0U);
    if (!a.exact || first) task.flags |= kFirstOfPart;
    if (!a.exact || last) task.flags |= kLastOfPart;
    if (rank == g.rank && !a.exact) {
      put_copies(a, ring, own, task);
      continue;
    }
    const int own_copy = __shfl_sync(kFullWarp, returns.own_copy, place);
    task.weight = __shfl_sync(kFullWarp, returns.weight, place);
    const std::byte* row =
        rank == g.rank ? row_of_copy(a, own, own_copy) : partial_of(g, g.self, place, token);
    ring.put(row + task.offset, task);
  }
}

__device__ void fetch_for_finish(const CombineArgs& a, Ring ring, uint32_t epoch) {
  const GroupView& g = a.group;
  const Columns columns(g);
  const int blocks = static_cast<int>(gridDim.x);
  // Tokens are looked up and waited for together, so that latencies overlap.
  constexpr int kBatch = 4;
  TokenPair pairs[kBatch];
  int own_rows[kBatch];
  const auto look_up = [&](int first) {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      pairs[i] = load_pair(a, first + i * blocks, a.tokens);
      own_rows[i] = first + i * blocks < a.tokens ? g.own_row[first + i * blocks] : -1;
    }
  };
  look_up(static_cast<int>(blockIdx.x));
  bool ok = true;
  for (int first = static_cast<int>(blockIdx.x); first < a.tokens && ok; first += kBatch * blocks) {
    Work work[kBatch];
    Returns returns[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) work[i] = load_work(a, g.rank, max(own_rows[i], 0));
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      returns[i] = make_returns(a, pairs[i]);
      const int token = first + i * blocks;
      ok = ok && (token >= a.tokens || wait_rows(a, token, returns[i], epoch));
    }
    if (!ok) break;
    look_up(first + kBatch * blocks);
    acquire_rows();
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i * blocks >= a.tokens) break;
      RowTask task = {};
      task.token = first + i * blocks;
      for (int offset = 0; offset < columns.row_bytes; offset += columns.block_bytes) {
        task.offset = offset;
        task.bytes = columns.bytes(offset);
        task.flags = 0;
        put_token(a, ring, returns[i], work[i], task);
      }
    }
  }
  RowTask stop = {};
  stop.flags = kStop;
  ring.put(nullptr, stop);
}

__device__ void sum_for_finish(const CombineArgs& a, Ring ring) {
  const int thread = static_cast<int>(threadIdx.x) % kSumThreads;
  Sum<kVectors> part;
  Sum<kVectors> total;
  for (;;) {
    const RowTask task = ring.get();
    if ((task.flags & kStop) != 0) return;
    const int vectors = task.bytes / kVectorBytes;
    const auto index = [&](int i) { return thread + kSumThreads * i; };
    if ((task.flags & kFirstOfItem) != 0) total = {};
    if ((task.flags & kFirstOfPart) != 0) part = {};
    const auto* row = reinterpret_cast<const uint4*>(ring.row());
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      if (index(i) < vectors && (task.flags & kNoRow) == 0) {
        part.add(i, row[index(i)], task.weight);
      }
    }
    ring.release();
    if ((task.flags & kLastOfPart) != 0) {
      if (a.exact) {
        total = part;
      } else {
#pragma unroll
        for (int i = 0; i < kVectors; ++i) total.add(i, part.rounded(i), 1.0F);
      }
    }
    if ((task.flags & kLastOfItem) == 0) continue;
    const auto place = [&](int i) {
      return index(i) < vectors ? task.offset / kVectorBytes + index(i) : INT_MAX;
    };
    write_token(a, static_cast<int>(task.token), INT_MAX, place, total);
  }
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
  const Columns columns(g);
  const int entry_bytes = (columns.block_bytes + 127) / 128 * 128;
  const int entries = min(kMaxEntries, kRingBytes / entry_bytes);
  const Ring push = {&s.push, memory + kSharedHead, entries, entry_bytes};
  const Ring finish = {&s.finish, memory + kSharedHead + kRingBytes, entries, entry_bytes};
  if (threadIdx.x == 0) {
    push.init(kSumWarps);
    finish.init(kSumWarps);
    for (uint64_t& stored : s.stored) ptx::init_barrier(&stored, kSumWarps);
    s.published = 0;
    s.total = -1;
    ptx::fence_barrier_init();
  }
  __syncthreads();
  const int warp = warp_id();
  if (warp < kSumWarps) {
    sum_for_push(push, s);
  } else if (warp < 2 * kSumWarps) {
    sum_for_finish(a, finish);
  } else if (warp == kPushFetcher) {
    fetch_for_push(a, push, s, epoch);
  } else if (warp == kFinishFetcher) {
    fetch_for_finish(a, finish, epoch);
  } else if (lane_id() == 0) {
    publish(s, epoch);
  }
  finish_phase(&g.state->combine_epoch);
}

}  // namespace

cudaError_t load_combine() {
  return cudaFuncSetAttribute(combine_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              kSharedMemoryOfKernel);
}

cudaError_t launch_combine(const Launch& launch, const CombineArgs& args) {
  return launch_kernel(combine_kernel, launch, kThreads, kSharedMemoryOfKernel, args);
}

}  // namespace wideep::alltoall
