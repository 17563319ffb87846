// The all-to-all of an MoE layer: tokens go to the slots of their experts (dispatch), what the
// slots made of them comes back and is summed (combine). The front door for all transports.
//
// An AllToAll is one rank's end of a group. It knows slots, not experts: slot g is on rank
// g / slots_per_rank of the group. All ranks make the same calls in the same order, also with zero
// tokens:
//
//   plan      says where this rank's tokens go, hears where everybody's go
//   dispatch  rows to the slots' ranks, in the order (slot, source rank, token, k)
//   combine   y = sum over k of weight x row, in an order that does not depend on timing. Reduced:
//             on the slots' rank first, in the order of k, then over ranks in their order; one row
//             a token and rank travels. Exact: every row travels, and the token's rank sums in the
//             order of k, so the bits do not depend on placement, replicas or the number of ranks.
//
// The same input gives the same bytes on every transport and in every run. What differs between
// ranks that should agree (sizes, order of calls) is an error on all of them (dist/communicator.h).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/status.h"
#include "base/stream.h"
#include "base/tensor.h"
#include "config/balancer_config.h"
#include "dist/communicator.h"

namespace wideep::alltoall {

enum class Transport {
  kAuto,          // kSharedMemory where the ranks are threads of one process, else kMessages
  kSharedMemory,  // ranks read each other's rows where they are
  kMessages,      // rows travel once a token and rank, over the communicator
  kGather,        // all rows to all ranks, sums scattered: no point-to-point traffic
  kNvlink,        // rows on GPUs that reach each other's memory; see nvlink_group.h
};

// What a row is made of. The transports in host memory carry kF32, kNvlink the others.
enum class RowFormat {
  kF32,
  kBf16,
  kFp8,       // BF16 that dispatch makes E4M3 of, with a scale for 128 columns
  kFp8Given,  // E4M3 with scales that the caller made
  kBytes,
};

// How received rows lie. The transports in host memory know kBySlot without alignment.
enum class RowLayout {
  kBySlot,        // one slot behind the other, each from a multiple of row_alignment on
  kBySlotMasked,  // [slots_per_rank, max_rows]: for grouped products with counts on the device
  kBySource,      // [size, max_tokens_of_rank]: a token once, whatever number of slots it goes to
};

// What all ranks of a group must agree on; create() compares it.
struct GroupShape {
  int num_slots = 0;       // of all ranks, a multiple of the group's size
  int top_k = 0;           // slots a token
  int hidden_size = 0;     // elements of a row, kF32
  int64_t max_tokens = 0;  // of all ranks together in one batch
  CombineMode combine = CombineMode::kReduced;
  // Rows are multiplied by their weight on the way in instead of on the way out (Llama 4).
  bool weight_scales_input = false;
  Transport transport = Transport::kAuto;

  // The rest is kNvlink's; the defaults are what the others do.
  RowFormat format = RowFormat::kF32;
  RowLayout layout = RowLayout::kBySlot;
  int row_alignment = 1;
  int64_t max_tokens_of_rank = 0;  // 0: max_tokens
  int64_t max_rows = 0;   // of the output, of a slot for kBySlotMasked; 0: what can happen at worst
  int64_t row_bytes = 0;  // kBytes
  int num_counts = 0;     // integers of a rank that NvlinkGroup::gather_counts takes
  int num_sms = 0;        // multiprocessors that a call takes; 0: a formula (docs/alltoall.md)
  double timeout_seconds = 30;  // after which a rank gives a peer up
};

// Where this rank's tokens go. The memory is the caller's and stays until combine() has returned.
struct Routing {
  int64_t num_tokens = 0;
  std::span<const int32_t> slots;  // [num_tokens, top_k]; -1: nowhere
  const float* weights = nullptr;  // [num_tokens, top_k]; kNvlink: null for ones
  // kNvlink: what no rank's num_tokens exceeds in this batch, the same on all ranks; it decides the
  // regime. 0: the group's max_tokens_of_rank.
  int64_t most_tokens = 0;
};

// What dispatch() delivered. Views of the group's memory, valid until the next plan(). From kNvlink
// all of it is on the device, and rows.rows is what there is room for: counts stay on the device.
struct Received {
  ConstMatrixView rows;          // [num_rows, hidden_size] in the format
  std::span<const int> offsets;  // [slots_per_rank + 1]: rows of slot s of this rank
  MatrixView outputs;            // [num_rows, hidden_size]: combine() takes the results here
  // kNvlink; empty or null where the layout or format has none.
  MatrixView scales = {};                       // [num_rows, hidden_size / 128] kF32
  std::span<const int32_t> slot_counts = {};    // [slots_per_rank], without alignment
  std::span<const int32_t> source_counts = {};  // [size] rows that came from each rank
  std::span<const int32_t> rows_of_slots = {};  // [size, num_slots]: what balancers count
  std::span<const int32_t> row_slots = {};      // [num_rows, top_k] kBySource: slots here, or -1
  std::span<const float> row_weights = {};      // [num_rows, top_k] kBySource
};

class AllToAll {
 public:
  // Collective over the group, which outlives the AllToAll. kInvalidInput, on every rank, where the
  // ranks' shapes differ (naming two of them) or the slots do not divide.
  static Result<std::unique_ptr<AllToAll>> create(dist::Communicator& group,
                                                  const GroupShape& shape);
  virtual ~AllToAll() = default;
  AllToAll(const AllToAll&) = delete;
  AllToAll& operator=(const AllToAll&) = delete;

  // Collective. More than max_tokens in all: kInvalidInput on every rank.
  virtual Status plan(Stream& stream, const Routing& routing) = 0;
  // Rows that each rank sends to each slot, [size, num_slots], since plan(). Empty from kNvlink:
  // they are in Received.
  virtual std::span<const int32_t> rows_of_slots() const = 0;

  // Collective. x [num_tokens, hidden_size] kF32 is read by others until combine() returns.
  virtual Result<Received> dispatch(Stream& stream, ConstMatrixView x) = 0;

  // Collective. y [num_tokens, hidden_size] kF32 is overwritten; zero for tokens without slots.
  virtual Status combine(Stream& stream, MatrixView y) = 0;

  // Bytes of the buffers that create() takes for this shape; pages that are not used cost nothing.
  static int64_t buffer_bytes(const GroupShape& shape);

 protected:
  AllToAll() = default;
};

}  // namespace wideep::alltoall
