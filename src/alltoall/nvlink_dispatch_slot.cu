// Dispatch of a large batch by slot, one kernel of two teams of blocks. The warps of the pushing
// blocks each take a token, read its row once and send it to every other rank that has one of its
// slots, as lines that carry the epoch themselves: nothing waits for the links. The other blocks
// work out the headers' indices, then copy rows to their slots: those of other ranks as they come,
// and this rank's own, straight from the batch, while none does.
#include <algorithm>

#include "alltoall/nvlink_kernels.h"
#include "alltoall/nvlink_launch.h"
#include "alltoall/nvlink_pieces.cuh"
#include "alltoall/nvlink_push.cuh"
#include "alltoall/nvlink_teams.cuh"

namespace wideep::alltoall {
namespace {

using namespace device;  // NOLINT: the kernels' own vocabulary

constexpr int kThreads = 512;  // of 128 registers: pieces of rows are kept in them
constexpr int kWarps = kThreads / 32;

// Where a row of `source` lands.
__device__ std::byte* landing_row(const GroupView& g, std::byte* owner, int source, int row) {
  const int64_t index = static_cast<int64_t>(source) * g.shape.max_tokens + row;
  return owner + g.at.rows + index * bytes_as_lines(g.shape.row_bytes, g.shape.scale_bytes);
}

__device__ int vectors_as_lines(const DispatchArgs& a) {
  return lines_of_row(a.row_bytes) * kVectorsOfLine;
}

// A pushing block.
template <Payload kPayload>
__device__ void push(const DispatchArgs& a, uint32_t epoch, uint32_t* memory) {
  const GroupView& g = a.group;
  const int ranks = g.shape.num_ranks;
  const RowCounters counters = {memory, memory + kWarps * ranks, kWarps, ranks};
  const Range tokens = tokens_of(a, warp_id(), kWarps);
  RawRoute next = look_up(a, tokens.begin, tokens.end);
  if (!begin_rows(a, epoch, counters)) return;
  bool scanned = false;
  for (int token = tokens.begin; token < tokens.end; ++token) {
    const Route route = make_route(g, next, warp_id(), counters);
    next = look_up(a, token + 1, tokens.end);
    const bool leaves = route.row >= 0 && route.rank != g.rank;
    Places places;
    places.lanes = __ballot_sync(kFullWarp, leaves);
    if (places.lanes == 0) continue;
    if (leaves) places.to = landing_row(g, g.peers[route.rank], g.rank, route.row);
    for (int first = 0; first < vectors_as_lines(a); first += kVectorsOfPiece) {
      Piece piece = load_piece<kPayload>(a, token, first);
      send_piece(a, places, first, epoch, piece);
    }
    // The first row has left by now, at the latest.
    scanned = scanned || wait_scanned(g, epoch);
    if (!scanned) return;
    write_headers(a, token, route, places.lanes, epoch);
  }
}

// Copies a token's row to its slots of this rank, if it has any, by a warp.
template <Payload kPayload>
__device__ void place_own(const DispatchArgs& a, const ReceiveTable& table, int token) {
  const GroupView& g = a.group;
  const RawRoute raw = look_up(a, token, a.tokens);
  const uint32_t pair = pair_of(g, raw.slot);
  const int rank = pair == kNoPair ? -1 : static_cast<int>(pair >> 16);
  const uint32_t own = __ballot_sync(kFullWarp, rank == g.rank);
  const uint32_t lower = __ballot_sync(kFullWarp, leads_rank(pair, 0) && rank < g.rank);
  if (lane_id() == 0) g.own_row[token] = own == 0 ? -1 : token;
  if (own == 0) return;
  Copy copy = {-1, raw.weight, lane_id(), raw.slot - g.rank * g.shape.slots_per_rank()};
  if (rank == g.rank) {
    copy.row = static_cast<int>(table.first[g.rank * g.shape.slots_per_rank() + copy.slot]) +
               g.pair_index[static_cast<int64_t>(token) * a.top_k + lane_id()];
  }
  for (int first = 0; first < vectors_as_lines(a); first += kVectorsOfPiece) {
    store_piece(a, own, copy.row, first, load_piece<kPayload>(a, token, first));
  }
  // As a row that came: among this rank's own, it has the token's number.
  const int64_t row = static_cast<int64_t>(g.rank) * g.shape.max_tokens + token;
  const int place = __popc(own & ((1U << lane_id()) - 1));
  if (rank == g.rank) g.copies[row * g.shape.top_k + place] = copy;
  if (lane_id() == 0) g.received[row] = {token, __popc(own), __popc(lower)};
}

// Copies a row whose head has come to its slots, by a warp. False where a rank gave up.
__device__ bool place_arrival(const DispatchArgs& a, uint32_t epoch, const ReceiveTable& table,
                              int source, int row, const Packet& head) {
  const GroupView& g = a.group;
  Arrival arrival;
  read_head(head, arrival);
  if (!receive_copies(a, epoch, table, source, row, arrival)) return false;
  const uint32_t lanes = __ballot_sync(kFullWarp, arrival.copy.row >= 0);
  const Lines from = {landing_row(g, g.self, source, row), lines_of_row(a.row_bytes)};
  for (int first = 0; first < from.vectors(); first += kVectorsOfPiece) {
    Piece piece;
    if (!receive_piece(a, wait_of_row(source, epoch, row), from, first, piece)) return false;
    store_piece(a, lanes, arrival.copy.row, first, piece);
  }
  keep_row(g, static_cast<int64_t>(source) * g.shape.max_tokens + row, arrival);
  return true;
}

// Places 32 rows at most in the order in which they come, by a warp; each lane waits for one. Own
// rows of `own` fill the time. False where a rank gave up.
template <Payload kPayload>
__device__ bool place_arrivals(const DispatchArgs& a, uint32_t epoch, const ReceiveTable& table,
                               bool mine, int source, int row, Range& own) {
  const GroupView& g = a.group;
  uint32_t left = __ballot_sync(kFullWarp, mine);
  while (left != 0) {
    Packet head = {};
    uint32_t come = 0;
    const auto poll = [&] {
      const bool waits = (left >> lane_id() & 1U) != 0;
      if (waits) head = ptx::load_relaxed(header_of(g, g.self, source, epoch, row));
      come = __ballot_sync(kFullWarp, waits && head.epoch == epoch);
      return come != 0;
    };
    if (own.begin < own.end) {
      if (!poll()) {
        place_own<kPayload>(a, table, own.begin++);
        continue;
      }
    } else {
      const int waiting = __ffs(static_cast<int>(left)) - 1;
      const Wait wait = wait_of_row(__shfl_sync(kFullWarp, source, waiting), epoch,
                                    __shfl_sync(kFullWarp, row, waiting));
      if (!wait_by_warp(g, wait, poll)) return false;
    }
    for (; come != 0; come &= come - 1) {
      const int lane = __ffs(static_cast<int>(come)) - 1;
      left &= ~(1U << lane);
      Packet its_head = {};
      its_head.word[0] = __shfl_sync(kFullWarp, head.word[0], lane);
      its_head.word[1] = __shfl_sync(kFullWarp, head.word[1], lane);
      if (!place_arrival(a, epoch, table, __shfl_sync(kFullWarp, source, lane),
                         __shfl_sync(kFullWarp, row, lane), its_head)) {
        return false;
      }
    }
  }
  return true;
}

// A warp's share of all rows that this rank has slots for.
template <Payload kPayload>
__device__ void place_share(const DispatchArgs& a, uint32_t epoch, const ReceiveTable& table,
                            const Team& team) {
  const Arrivals arrivals(a.group, table, a.group.shape.num_ranks - 1,
                          warp_id() * team.blocks + team.block, kWarps * team.blocks);
  // Of the tokens whose indices this block has worked out.
  Range own = share_of(share_of(a.tokens, team.block, team.blocks), warp_id(), kWarps);
  for (int first = 0; arrivals.has(first); first += 32) {
    int source = 0;
    int row = 0;
    const bool mine =
        arrivals.has(first + lane_id()) && arrivals.find(first + lane_id(), source, row);
    if (!place_arrivals<kPayload>(a, epoch, table, mine, source, row, own)) return;
  }
  while (own.begin < own.end) place_own<kPayload>(a, table, own.begin++);
}

template <Payload kPayload>
__global__ void __launch_bounds__(kThreads, 1)
    dispatch_by_slot_kernel(const __grid_constant__ DispatchArgs a) {
  extern __shared__ __align__(16) uint32_t memory[];
  run_teams<kWarps>(
      a, memory, [&](uint32_t epoch) { push<kPayload>(a, epoch, memory); },
      [&](uint32_t epoch, const Team& team, const ReceiveTable& table) {
        place_share<kPayload>(a, epoch, table, team);
      });
}

int64_t shared_bytes(const Shape& shape) {
  return std::max(int64_t{4} * RowCounters::words(kWarps, shape.num_ranks),
                  receiving_bytes(shape, kWarps));
}

constexpr DispatchKernels kKernels = {dispatch_by_slot_kernel<Payload::kBytes>,
                                      dispatch_by_slot_kernel<Payload::kQuantize>};

}  // namespace

cudaError_t load_dispatch_by_slot() {
  return kKernels.load();
}

cudaError_t launch_dispatch_by_slot(const Launch& launch, Payload payload,
                                    const DispatchArgs& args) {
  return kKernels.launch(launch, payload, kThreads, shared_bytes(args.group.shape), args);
}

}  // namespace wideep::alltoall
