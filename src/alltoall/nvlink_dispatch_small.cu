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
#include "alltoall/nvlink_receive.cuh"
#include "alltoall/nvlink_small_push.cuh"

namespace wideep::alltoall {
namespace {

using namespace device;  // NOLINT: the kernels' own vocabulary

__device__ ReceiveTable receive_table(const DispatchArgs& a, uint32_t* memory) {
  uint32_t* const rows = memory + a.group.shape.num_slots;
  return {memory, rows, rows + kMaxNvlinkRanks, static_cast<int>(blockIdx.x) == a.push_blocks};
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
  const bool keeps =
      deal.part == 0 && warp_id() == kSmallWarps - 1;  // what combine needs of the row
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
__global__ void __launch_bounds__(kSmallThreads, 2)
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
    send_small_counts(a, epoch, s);
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

constexpr DispatchKernels kKernels = {dispatch_small_kernel<Payload::kBytes>,
                                      dispatch_small_kernel<Payload::kQuantize>};

}  // namespace

cudaError_t load_dispatch_small() {
  return kKernels.load();
}

cudaError_t launch_dispatch_small(const Launch& launch, Payload payload, const DispatchArgs& args) {
  return kKernels.launch(launch, payload, kSmallThreads, shared_bytes(args), args);
}

}  // namespace wideep::alltoall
