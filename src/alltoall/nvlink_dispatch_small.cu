// Dispatch of a small batch, one kernel without a barrier of the grid and without fences: rows,
// headers and counts all carry the epoch themselves. The first blocks send: each counts the whole
// batch, a few thousand ids at most, and sends its share of the tokens, also to its own rank. The
// others receive: each makes the table of where rows go, and places its share of what arrives,
// every warp its part of a row. Buffers alternate with the parity of the epoch: a rank that is one
// call ahead writes to the other half, and it cannot be two ahead, since a call ends only with the
// counts of all ranks.
//
// Most of a call's time is the chain from ids to the last store, and much of that is fetching
// instructions: the code is kept small, and nothing is unrolled that need not be.
#include "alltoall/nvlink_kernels.h"
#include "alltoall/nvlink_launch.h"
#include "alltoall/nvlink_lines.cuh"
#include "alltoall/nvlink_receive.cuh"
#include "alltoall/nvlink_scan.cuh"
#include "alltoall/quantize.cuh"

namespace wideep::alltoall {
namespace {

using namespace device;  // NOLINT: the kernels' own vocabulary

constexpr int kThreads = kSmallThreads;
constexpr int kWarps = kThreads / 32;

// Of a pair in shared memory, a bit that slots leave free: it is its token's first for its rank.
constexpr uint32_t kLeads = 0x8000;
static_assert(kMaxSlots < kLeads);

// Shared memory of a block that sends.
struct Outgoing {
  uint32_t* counts;   // [columns] rows for each slot, then for each rank; zeros at first
  uint32_t* pairs;    // [tokens * top_k]
  uint32_t* numbers;  // [tokens * top_k] of the block's tokens: the pair's index among the rows for
                      // its slot, and << 16 its row among those for its rank, if it leads
};

__device__ Outgoing outgoing(const DispatchArgs& a, uint32_t* memory) {
  uint32_t* const pairs = memory + a.group.shape.columns();
  return {memory, pairs, pairs + a.tokens * a.top_k};
}

__device__ ReceiveTable receive_table(const DispatchArgs& a, uint32_t* memory) {
  uint32_t* const rows = memory + a.group.shape.num_slots;
  return {memory, rows, rows + kMaxNvlinkRanks, static_cast<int>(blockIdx.x) == a.push_blocks};
}

__device__ Lines small_row(const DispatchArgs& a, std::byte* owner, int source, uint32_t epoch,
                           int64_t row) {
  const Shape& shape = a.group.shape;
  const int64_t index = static_cast<int64_t>(epoch & 1) * shape.num_ranks + source;
  return {
      owner + a.group.at.small_rows +
          (index * shape.small_tokens + row) * bytes_as_lines(shape.row_bytes, shape.scale_bytes),
      lines_of_row(a.row_bytes)};
}

// What a thread loads of a part: a vector of the row as it travels, or two of BF16.
template <Payload kPayload>
struct Input {
  uint4 v[kPayload == Payload::kQuantize ? 2 : 1];
  float scale;  // of the line whose last lane this is
};

template <Payload kPayload>
__device__ Input<kPayload> load_part(const DispatchArgs& a, int token, int v) {
  Input<kPayload> input = {};
  const std::byte* const from = a.rows + token * a.row_stride;
  if (v < static_cast<int>(a.row_bytes / kVectorBytes)) {
    constexpr int kOf = sizeof(input.v) / kVectorBytes;
#pragma unroll
    for (int i = 0; i < kOf; ++i) {
      input.v[i] = ptx::load_input(from + int64_t{kVectorBytes} * (v * kOf + i));
    }
  }
  if (a.scales != nullptr && ends_line(v) && v / kVectorsOfLine < a.scale_columns) {
    input.scale = a.scales[static_cast<int64_t>(token) * a.scale_columns + v / kVectorsOfLine];
  }
  return input;
}

// The vector as it travels, and its line's scale. By whole warps.
template <Payload kPayload>
__device__ uint4 make_vector(const Input<kPayload>& input, float& scale) {
  scale = input.scale;
  if constexpr (kPayload == Payload::kQuantize) {
    return quantize16(input.v[0], input.v[1], scale);
  } else {
    return input.v[0];
  }
}

// This lane's weight of a token's pair.
__device__ float load_weight(const DispatchArgs& a, int token) {
  if (a.weights == nullptr || lane_id() >= a.top_k) return 1;
  return a.weights[token * a.top_k + lane_id()];
}

// The batch's ids, as they are, to where its pairs will be.
__device__ void load_ids(const DispatchArgs& a, const Outgoing& s) {
#pragma unroll 2
  for (int p = static_cast<int>(threadIdx.x); p < a.tokens * a.top_k; p += kThreads) {
    s.pairs[p] = static_cast<uint32_t>(a.slots[p]);
  }
}

// Ids become pairs. By all threads; each warp takes as many whole tokens at a time as it has lanes.
__device__ void make_pairs(const DispatchArgs& a, uint32_t epoch, const Outgoing& s) {
  const int step = 32 / a.top_k * a.top_k;
  const int token = lane_id() / a.top_k;
  const int end = a.tokens * a.top_k;
#pragma unroll 1
  for (int base = warp_id() * step; base < end; base += kWarps * step) {
    const int p = base + lane_id();
    const bool mine = lane_id() < step && p < end;
    const uint32_t pair = mine ? checked_pair(a, p, static_cast<int>(s.pairs[p]), epoch) : kNoPair;
    const bool leads = leads_rank(pair, token);
    if (mine) s.pairs[p] = leads ? pair | kLeads : pair;
  }
}

// Counts the pairs of tokens [begin, end); by all threads.
__device__ void count_pairs(const DispatchArgs& a, int begin, int end, const Outgoing& s) {
#pragma unroll 1
  for (int base = begin * a.top_k + 32 * warp_id(); base < end * a.top_k; base += kThreads) {
    const int p = base + lane_id();
    const uint32_t pair = p < end * a.top_k ? s.pairs[p] : kNoPair;
    const bool leads = pair != kNoPair && (pair & kLeads) != 0;
    const uint32_t same = __match_any_sync(kFullWarp, leads ? pair >> 16 : kNone16);
    if (pair != kNoPair) atomicAdd(&s.counts[pair & (kLeads - 1)], 1U);
    if (leads && (same & ((1U << lane_id()) - 1)) == 0) {
      atomicAdd(&s.counts[a.group.shape.num_slots + static_cast<int>(pair >> 16)],
                static_cast<uint32_t>(__popc(same)));
    }
  }
}

__device__ void clear_counts(const DispatchArgs& a, const Outgoing& s) {
  for (int c = static_cast<int>(threadIdx.x); c < a.group.shape.columns(); c += kThreads) {
    s.counts[c] = 0;
  }
}

// The batch's counts to all ranks, a block a rank: from the last on, as the first ones have tokens.
__device__ void send_counts(const DispatchArgs& a, uint32_t epoch, const Outgoing& s) {
  const GroupView& g = a.group;
  int rank = a.push_blocks - 1 - static_cast<int>(blockIdx.x);
  if (rank >= g.shape.num_ranks) return;
  count_pairs(a, 0, a.tokens, s);
  __syncthreads();
#pragma unroll 1
  for (; rank < g.shape.num_ranks; rank += a.push_blocks) {
    if (!is_active(rank)) continue;
    uint64_t* const cells = cells_of(g, g.peers[rank], g.rank, epoch);
#pragma unroll 1
    for (int c = static_cast<int>(threadIdx.x); c < g.shape.columns(); c += kThreads) {
      ptx::store_relaxed(cells + c, cell_of(epoch, s.counts[c]));
    }
  }
  __syncthreads();
  clear_counts(a, s);  // for the numbers of this block's tokens
  __syncthreads();
}

// The numbers of the pairs of this block's tokens: what the tokens before them have is counted up
// to each in turn. By all threads.
__device__ void number_pairs(const DispatchArgs& a, Deal deal, const Outgoing& s) {
  int counted = 0;  // tokens
  int last = -1;
#pragma unroll 1
  for (; deal.row < a.tokens; deal.next()) {
    if (deal.row == last) continue;
    last = deal.row;
    count_pairs(a, counted, last, s);
    counted = last;
    __syncthreads();
    if (warp_id() == 0) {
      const int p = last * a.top_k + lane_id();
      const uint32_t pair = lane_id() < a.top_k ? s.pairs[p] : kNoPair;
      const uint32_t same = __match_any_sync(kFullWarp, pair == kNoPair ? pair : pair & ~kLeads);
      if (pair != kNoPair) {
        const uint32_t index =
            s.counts[pair & (kLeads - 1)] + __popc(same & ((1U << lane_id()) - 1));
        s.numbers[p] = index | s.counts[a.group.shape.num_slots + static_cast<int>(pair >> 16)]
                                   << 16;
      }
    }
    __syncthreads();
  }
}

// A token's pairs, spread over the lanes of a warp: lane k has the k-th.
struct Route {
  int slot = -1;  // of its rank
  int rank = -1;  // -1: no pair
  int index = 0;  // among the rows for the slot
  int row = -1;   // among the rows for the rank; -1: not the token's first slot there
};

__device__ Route make_route(const DispatchArgs& a, int token, const Outgoing& s) {
  Route route;
  if (lane_id() >= a.top_k) return route;
  const uint32_t pair = s.pairs[token * a.top_k + lane_id()];
  if (pair == kNoPair) return route;
  const uint32_t number = s.numbers[token * a.top_k + lane_id()];
  route.rank = static_cast<int>(pair >> 16);
  route.slot = static_cast<int>(pair & (kLeads - 1)) - route.rank * a.group.shape.slots_per_rank();
  route.index = static_cast<int>(number & 0xffffU);
  if ((pair & kLeads) != 0) route.row = static_cast<int>(number >> 16);
  return route;
}

// The header of the token at the rank of lane `leader`, by a warp. All top_k entries are written,
// those beyond the copies as padding, so that the receiver can wait for all at once.
__device__ void send_header(const DispatchArgs& a, int token, uint32_t epoch, const Route& route,
                            float weight, int leader) {
  const GroupView& g = a.group;
  const int lane = lane_id();
  const int to = __shfl_sync(kFullWarp, route.rank, leader);
  const int to_row = __shfl_sync(kFullWarp, route.row, leader);
  const uint32_t same = __ballot_sync(kFullWarp, route.rank == to);
  const uint32_t lower = __ballot_sync(kFullWarp, route.row >= 0 && route.rank < to);
  Packet* const header = header_of(g, g.peers[to], g.rank, epoch, to_row);
  const uint32_t before = (1U << lane) - 1;
  const int place =
      route.rank == to ? __popc(same & before) : __popc(same) + __popc(~same & before);
  if (lane < a.top_k) {
    const uint32_t tag = static_cast<uint32_t>(route.slot & 0xffff) | static_cast<uint32_t>(lane)
                                                                          << 16;
    ptx::store_relaxed(header + 1 + place,
                       {{tag, static_cast<uint32_t>(route.index), __float_as_uint(weight)}, epoch});
  }
  if (lane == 0) {
    const uint32_t counts =
        static_cast<uint32_t>(__popc(same)) | static_cast<uint32_t>(__popc(lower)) << 8;
    ptx::store_relaxed(header, {{static_cast<uint32_t>(token), counts, 0}, epoch});
    if (to == g.rank) g.own_row[token] = to_row;
  }
}

// Headers of this block's tokens, by the block that has a token's first part; `weight` is that of
// its first token.
__device__ void send_headers(const DispatchArgs& a, Deal deal, float weight, uint32_t epoch,
                             const Outgoing& s) {
  const int first = deal.row;
  int turn = kWarps - 1 - warp_id();  // by the last warps, which may have less of a row
#pragma unroll 1
  for (; deal.row < a.tokens; deal.next()) {
    if (deal.part != 0) continue;
    const int token = deal.row;
    const Route route = make_route(a, token, s);
#pragma unroll 1
    for (uint32_t left = __ballot_sync(kFullWarp, route.row >= 0); left != 0;
         left &= left - 1, --turn) {
      if (turn % kWarps != 0) continue;
      send_header(a, token, epoch, route, token == first ? weight : load_weight(a, token),
                  __ffs(static_cast<int>(left)) - 1);
    }
    const bool has_own = __any_sync(kFullWarp, route.rank == a.group.rank);
    if (threadIdx.x == 0 && !has_own) a.group.own_row[token] = -1;
  }
}

// Whether own rows travel as others do, which is quicker where blocks have no more than one part
// each: their receivers need not wait for headers to know them. Otherwise they are read where they
// are.
__device__ bool own_rows_travel(const DispatchArgs& a) {
  return a.tokens * a.parts.count <= a.push_blocks;
}

// Sends this block's parts of rows; `input` is what was loaded of the first one.
template <Payload kPayload>
__device__ void send_rows(const DispatchArgs& a, Deal deal, Input<kPayload> input, uint32_t epoch,
                          const Outgoing& s) {
  const GroupView& g = a.group;
  const int vectors = lines_of_row(a.row_bytes) * kVectorsOfLine;
#pragma unroll 1
  while (deal.row < a.tokens) {
    const Route route = make_route(a, deal.row, s);
    const int v = vector_of_part(a.parts, deal.part, vectors);
    float scale;
    const uint4 data = make_vector<kPayload>(input, scale);
    deal.next();
    if (deal.row < a.tokens) {  // before stores fill the way to memory
      input = load_part<kPayload>(a, deal.row, vector_of_part(a.parts, deal.part, vectors));
    }
    const bool travels = route.row >= 0 && (route.rank != g.rank || own_rows_travel(a));
#pragma unroll 1
    for (uint32_t left = __ballot_sync(kFullWarp, travels); left != 0; left &= left - 1) {
      const int leader = __ffs(static_cast<int>(left)) - 1;
      const int rank = __shfl_sync(kFullWarp, route.rank, leader);
      const int row = __shfl_sync(kFullWarp, route.row, leader);
      if (v >= vectors) continue;
      const Lines to = small_row(a, g.peers[rank], g.rank, epoch, row);
      send_vector(to, v, data, epoch);
      if (a.scale_columns != 0 && ends_line(v)) {
        ptx::store_relaxed(to.scale(v / kVectorsOfLine), cell_of(epoch, __float_as_uint(scale)));
      }
    }
  }
}

// Waits for the header of a row and, if it travels, for this thread's vector v of it, whose line's
// scale the last lane gets too. By a warp; false where a rank gave up.
__device__ bool wait_part(const DispatchArgs& a, uint32_t epoch, int source, int row, bool travels,
                          int v, Packet& head, uint4& data, float& scale) {
  const GroupView& g = a.group;
  const Lines from = small_row(a, g.self, source, epoch, row);
  const Packet* const header = header_of(g, g.self, source, epoch, row);
  const bool has_vector = travels && v < from.vectors();
  const bool has_scale = a.scale_columns != 0 && has_vector && ends_line(v);
  Landed landed = {};
  uint64_t cell = 0;
  const bool ok = wait_lanes(g, wait_of_row(source, epoch, row), [&](uint64_t& seen) {
    if (lane_id() <= a.top_k) head = ptx::load_relaxed(header + lane_id());
    if (has_vector) landed = load_vector(from, v);
    if (has_scale) cell = ptx::load_relaxed(from.scale(v / kVectorsOfLine));
    bool come = !has_vector || has_come(landed, v, epoch, seen);
    if (lane_id() <= a.top_k && head.epoch != epoch) {
      seen = head.epoch;
      come = false;
    }
    if (has_scale && cell >> 32 != epoch) {
      seen = cell >> 32;
      come = false;
    }
    return come;
  });
  data = vector_of(landed, v);
  scale = __uint_as_float(static_cast<uint32_t>(cell));
  return ok;
}

// Writes a part of a row to all the row's places, each warp what its lanes have. False where a rank
// gave up.
template <Payload kPayload>
__device__ bool receive_part(const DispatchArgs& a, uint32_t epoch, const ReceiveTable& table,
                             int source, const Deal& deal) {
  const GroupView& g = a.group;
  const int vectors = lines_of_row(a.row_bytes) * kVectorsOfLine;
  const int v = vector_of_part(a.parts, deal.part, vectors);
  const bool keeps = deal.part == 0 && warp_id() == kWarps - 1;  // what combine needs of the row
  if (!keeps && !__any_sync(kFullWarp, v < vectors)) return true;
  Packet head = {};
  uint4 data;
  float scale;
  const bool travels = source != g.rank || own_rows_travel(a);
  if (!wait_part(a, epoch, source, deal.row, travels, v, head, data, scale)) return false;
  const Arrival arrival = read_small_header(a, table, source, head);
  if (!travels) {
    data = make_vector<kPayload>(load_part<kPayload>(a, arrival.token, v), scale);
  }
  const auto write = [&](std::byte* row, float* scales) {
    if (v < static_cast<int>(a.row_bytes / kVectorBytes)) {
      ptx::store_row(row + int64_t{kVectorBytes} * v, data);
    }
    if (a.scale_columns != 0 && v < vectors && ends_line(v)) scales[v / kVectorsOfLine] = scale;
  };
  const int64_t place = static_cast<int64_t>(source) * g.shape.max_tokens + deal.row;
  if (a.layout == DeviceLayout::kBySource) {
    write(g.self + g.at.rows + place * a.row_bytes,
          at<float>(g.self, g.at.scales + place * g.shape.scale_bytes));
    if (keeps && lane_id() < a.top_k) {
      a.row_slots[place * a.top_k + lane_id()] = arrival.copy.slot;
      a.row_weights[place * a.top_k + lane_id()] = arrival.copy.weight;
    }
    if (keeps && lane_id() == 0) keep_row_of_source(g, place, arrival.token, arrival.partial);
    return true;
  }
#pragma unroll 1
  for (int i = 0; i < arrival.copies; ++i) {
    const int64_t to = __shfl_sync(kFullWarp, arrival.copy.row, i);
    write(a.out_rows + to * a.row_bytes, a.out_scales + to * a.out_scale_stride);
  }
  if (keeps) keep_row(g, place, arrival);
  return true;
}

// Places this block's share of the rows, own ones first, which need not come.
template <Payload kPayload>
__device__ void receive(const DispatchArgs& a, Deal deal, uint32_t epoch,
                        const ReceiveTable& table) {
  const GroupView& g = a.group;
  if (!fill_table(a, epoch, table)) return;
#pragma unroll 1
  for (int turn = 0; turn < g.shape.num_ranks; ++turn) {
    const int source = turn == 0 ? g.rank : turn <= g.rank ? turn - 1 : turn;
    const int rows = static_cast<int>(table.rows[source]);
#pragma unroll 1
    for (; deal.row < rows; deal.next()) {
      if (!receive_part<kPayload>(a, epoch, table, source, deal)) return;
    }
    deal.row -= rows;
  }
}

template <Payload kPayload>
__global__ void __launch_bounds__(kThreads, 2)
    dispatch_small_kernel(const __grid_constant__ DispatchArgs a) {
  extern __shared__ __align__(16) uint32_t memory[];
  const GroupView& g = a.group;
  const int block = static_cast<int>(blockIdx.x);
  const bool sends = block < a.push_blocks;
  // Where blocks have several parts, those of a row stay together: it is numbered once.
  const Deal deal = !sends               ? deal_parts(block - a.push_blocks,
                                                      static_cast<int>(gridDim.x) - a.push_blocks, a.parts.count)
                    : own_rows_travel(a) ? deal_parts(block, a.push_blocks, a.parts.count)
                                         : deal_rows(block, a.push_blocks, a.parts.count);
  const Outgoing s = outgoing(a, memory);
  if (sends) clear_counts(a, s);
  ptx::wait_for_previous_kernel();
  if (g.early) ptx::allow_next_kernel();
  // Loaded here, so that it is under way together with what the start of a kernel needs.
  Input<kPayload> input = {};
  float weight = 1;
  if (sends) {
    if (deal.row < a.tokens) {
      input = load_part<kPayload>(
          a, deal.row,
          vector_of_part(a.parts, deal.part, lines_of_row(a.row_bytes) * kVectorsOfLine));
      weight = load_weight(a, deal.row);
    }
    load_ids(a, s);
  }
  const uint32_t epoch = next_epoch(g.state->dispatch_epoch);
  if (must_skip(g, Phase::kDispatch, epoch)) return;
  if (sends) {
    make_pairs(a, epoch, s);
    __syncthreads();
    send_counts(a, epoch, s);
    number_pairs(a, deal, s);
    send_headers(a, deal, weight, epoch, s);
    send_rows(a, deal, input, epoch, s);
    copy_all_counts(a, epoch, {block, a.push_blocks});
  } else {
    receive<kPayload>(a, deal, epoch, receive_table(a, memory));
  }
  finish_phase(&g.state->dispatch_epoch);
}

int64_t shared_bytes(const DispatchArgs& a) {
  return int64_t{4} * (kSmallSharedWords + 2 * a.tokens * a.top_k + a.group.shape.columns());
}

}  // namespace

cudaError_t load_dispatch_small() {
  const cudaError_t error = allow_shared_memory(dispatch_small_kernel<Payload::kBytes>);
  if (error != cudaSuccess) return error;
  return allow_shared_memory(dispatch_small_kernel<Payload::kQuantize>);
}

cudaError_t launch_dispatch_small(const Launch& launch, Payload payload, const DispatchArgs& args) {
  const auto kernel = payload == Payload::kQuantize ? dispatch_small_kernel<Payload::kQuantize>
                                                    : dispatch_small_kernel<Payload::kBytes>;
  const int bytes = static_cast<int>(shared_bytes(args));
  return launch_kernel(kernel, launch, kThreads, bytes, args);
}

}  // namespace wideep::alltoall
