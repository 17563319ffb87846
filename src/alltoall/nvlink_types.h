// What the host and the kernels of the NVLink transport agree on: the cells, packets and records
// that cross the links, where they lie in a rank's symmetric memory, and what a kernel is told.
// docs/alltoall.md explains the protocol.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/host_device.h"

namespace wideep::alltoall {

inline constexpr int kMaxNvlinkRanks = 72;
inline constexpr int kMaxTopK = 22;
inline constexpr int kMaxSlots = 32767;
inline constexpr int kVectorBytes = 16;
inline constexpr int kScaleGroup = 128;  // columns that share one FP8 scale

// The unit of headers: one 128-bit store, which arrives whole. The epoch says that it is new.
struct alignas(16) Packet {
  uint32_t word[3];
  uint32_t epoch;
};

// What the ranks of a group must agree on. All sizes are those of the largest call.
struct Shape {
  int num_ranks = 0;
  int num_slots = 0;  // of all ranks, a multiple of num_ranks
  int top_k = 0;
  int max_tokens = 0;        // of one rank
  int small_tokens = 0;      // of one rank, where calls are small batches
  int64_t row_bytes = 0;     // of a dispatched row, a multiple of 16
  int64_t scale_bytes = 0;   // of a row's scales, a multiple of 16; 0 without
  int64_t result_bytes = 0;  // of a combined row, BF16
  bool by_source = false;    // dispatched rows stay where they land, and come back summed
  bool exact = false;        // rows of combine may cross unreduced
  int num_counts = 0;        // integers that a rank gathers

  WIDEEP_HOST_DEVICE int slots_per_rank() const { return num_slots / num_ranks; }
  // Columns of a rank's counts: rows for each slot, then tokens for each rank.
  WIDEEP_HOST_DEVICE int columns() const { return num_slots + num_ranks; }
  // Packets of a rank's gathered integers, three in each.
  WIDEEP_HOST_DEVICE int count_packets() const { return (num_counts + 2) / 3; }
  // Rows that a token gets back at most.
  WIDEEP_HOST_DEVICE int partials() const { return exact || top_k < num_ranks ? top_k : num_ranks; }
};

// A row travels as lines of 128 bytes, eight vectors, but a large batch's by source; the last word
// of each is the epoch, and what it displaced follows in cells of 8 bytes, as the row's scales do.
inline constexpr int kVectorsOfLine = 8;
WIDEEP_HOST_DEVICE constexpr int lines_of_row(int64_t row_bytes) {
  constexpr int64_t kLine = int64_t{kVectorsOfLine} * kVectorBytes;
  return static_cast<int>((row_bytes + kLine - 1) / kLine);
}
// Bytes of such a row, whole lines.
WIDEEP_HOST_DEVICE constexpr int64_t bytes_as_lines(int64_t row_bytes, int64_t scale_bytes) {
  constexpr int64_t kLine = int64_t{kVectorsOfLine} * kVectorBytes;
  const int64_t lines = lines_of_row(row_bytes);
  return (lines * (kLine + 8) + 2 * scale_bytes + kLine - 1) / kLine * kLine;
}

// Offsets in bytes of what a rank's symmetric memory holds; the same on all ranks. [2] is the
// parity of the epoch, `source` the rank that writes.
struct Regions {
  int64_t abort = 0;           // one word: 1 + the rank that gave up; 0: none
  int64_t dispatch_ready = 0;  // [source] u32 epochs: the source's rows may be overwritten
  int64_t combine_ready = 0;   // [source] u32 epochs
  int64_t resume = 0;          // [source] Packet: {dispatch, combine, gather epoch, generation}
  int64_t gathered = 0;        // [2][source][count_packets] Packet
  int64_t cells = 0;           // [2][source][columns] u64: epoch << 32 | count
  int64_t headers = 0;         // [2][source][max_tokens][top_k + 1] Packet
  int64_t small_rows = 0;      // [2][source][small_tokens][row and scales as lines]
  int64_t small_partials = 0;  // [2][partials][small_tokens][result as lines]
  int64_t rows = 0;            // [source][max_tokens][row_bytes], or the row and scales as lines
  int64_t scales = 0;          // [source][max_tokens][scale_bytes], by source
  int64_t partials = 0;        // [partials][max_tokens][result_bytes]
  int64_t partial_flags = 0;   // [partials][max_tokens] u32 epochs
  int64_t total = 0;
};

// Never fails; sizes are checked where the shape is made.
Regions make_regions(const Shape& shape);

// A header is top_k + 1 packets: {token, copies | partial << 8, 0}, and for each copy
// {slot of this rank | k << 16, index among the source's rows for the slot, weight}. `partial` is
// the place of this rank's row among the rows that the token gets back, by rank.
struct ReceivedRow {
  int32_t token = 0;
  int32_t copies = 0;
  int32_t partial = 0;
};

// One copy of a received row, for combine.
struct alignas(16) Copy {
  int32_t row = 0;  // in the output; -1: dropped
  float weight = 0;
  int32_t k = 0;
  int32_t slot = 0;  // of this rank
};

enum class Phase : int32_t { kNone, kDispatch, kCombine, kResume, kGather };

// What went wrong on the device. kAborted: a peer gave up first.
enum class ErrorKind : int32_t { kNone, kTimeout, kAborted, kBadSlot, kOverflow };

// What a wait waits for.
enum class Awaited : int32_t { kReady, kCounts, kRow, kPartial, kGrid, kResume };

// Written once, by the first thread that gives up, to memory of the host. `kind` is written last.
struct ErrorRecord {
  ErrorKind kind = ErrorKind::kNone;
  Phase phase = Phase::kNone;
  Awaited awaited = Awaited::kReady;
  int32_t peer = 0;
  uint32_t epoch = 0;
  uint32_t padding = 0;
  int64_t index = 0;  // of the cell, row or token
  uint64_t expected = 0;
  uint64_t seen = 0;
};

// A rank's own counters, in device memory. Epochs only advance on the device, so that captured
// graphs can be replayed. A word counts in units of 2^-32: the blocks of a grid add shares that
// make 2^32 together, so the upper half advances when the last one has added, and nobody reads back
// or resets.
struct DeviceState {
  uint64_t dispatch_epoch = 0;
  uint64_t combine_epoch = 0;
  uint64_t gather_epoch = 0;
  uint64_t grid_barrier = 0;
  uint32_t scanning = 0;     // blocks that have scanned their part of the batch
  uint32_t scanned = 0;      // dispatch epoch of the last batch that all have
  uint32_t error_taken = 0;  // a thread writes the record
  uint32_t padding = 0;
};

// What every kernel knows of its group. Owned by the group; all pointers are the device's but
// error.
struct GroupView {
  Shape shape;
  Regions at;
  int rank = 0;
  std::byte* self = nullptr;               // this rank's symmetric memory
  std::byte* peers[kMaxNvlinkRanks] = {};  // the same of each rank
  const uint8_t* active = nullptr;         // [num_ranks]
  DeviceState* state = nullptr;
  ErrorRecord* error = nullptr;  // pinned memory of the host
  uint64_t timeout_ns = 0;
  bool early = false;              // the next kernel's blocks may take room: no other rank needs it
  uint64_t* block_rows = nullptr;  // [blocks, num_ranks] as cells: rows of each block for each rank
  uint32_t* histograms = nullptr;  // [blocks][num_slots] pairs of each block for each slot
  int32_t* pair_index = nullptr;   // [max_tokens, top_k] place among this rank's rows for the slot
  int32_t* own_row = nullptr;      // [max_tokens] place among this rank's rows for itself; -1: none
  int32_t* source_rows = nullptr;  // [num_ranks] rows that came from each rank
  ReceivedRow* received = nullptr;  // [num_ranks, max_tokens]
  Copy* copies = nullptr;           // [num_ranks, max_tokens, top_k]
};

enum class DeviceLayout : int32_t { kBySlot, kBySlotMasked, kBySource };

// What blocks take of a small batch's row, one part at a time.
struct RowParts {
  int count = 1;
  int vectors = 0;  // of each but the last, whole lines
};

// A batch's way to its slots. Pointers are the device's.
struct DispatchArgs {
  GroupView group;
  const std::byte* rows = nullptr;  // [tokens] of BF16, or of bytes
  int64_t row_stride = 0;           // bytes
  const float* scales = nullptr;    // [tokens, scale_columns], where they are given
  const int32_t* slots = nullptr;   // [tokens, top_k]
  const float* weights = nullptr;   // [tokens, top_k]
  int tokens = 0;
  int top_k = 0;
  int64_t row_bytes = 0;  // as it travels
  int scale_columns = 0;  // floats of a row; 0: none
  DeviceLayout layout = DeviceLayout::kBySlot;
  int alignment = 1;     // of a slot's first row, kBySlot
  int64_t capacity = 0;  // rows of the output; of one slot for kBySlotMasked
  std::byte* out_rows = nullptr;
  float* out_scales = nullptr;
  int64_t out_scale_stride = 0;      // floats
  int32_t* slot_counts = nullptr;    // [slots_per_rank]
  int32_t* slot_offsets = nullptr;   // [slots_per_rank + 1]
  int32_t* all_counts = nullptr;     // [num_ranks, num_slots]; null: not wanted
  int32_t* source_counts = nullptr;  // [num_ranks]
  int32_t* row_slots = nullptr;      // [num_ranks, max_tokens, top_k], kBySource; -1: no copy
  float* row_weights = nullptr;      // the same
  int push_blocks = 0;               // of the grid's blocks, the first
  RowParts parts;                    // of a row as it travels; small batches
};

// Integers of this rank to all, and those of all.
struct GatherArgs {
  GroupView group;
  const int32_t* in = nullptr;  // [num_counts]
  int32_t* out = nullptr;       // [num_ranks, num_counts]; zeros of ranks that are masked
};

struct CombineArgs {
  GroupView group;
  const std::byte* rows = nullptr;  // BF16, in the rows of the dispatch's output
  int64_t row_stride = 0;           // bytes
  const int32_t* slots = nullptr;   // [tokens, top_k] as dispatched
  const float* weights = nullptr;   // [tokens, top_k]
  int tokens = 0;
  int top_k = 0;
  const std::byte* residual = nullptr;  // [tokens] BF16; null: none
  int64_t residual_stride = 0;          // bytes
  std::byte* out = nullptr;             // [tokens] BF16
  int64_t out_stride = 0;               // bytes
  int push_blocks = 0;                  // of the grid's blocks, the first
  RowParts parts;                       // of a result; small batches
};

}  // namespace wideep::alltoall
