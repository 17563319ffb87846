// How the rows of a GPU's tokens reach the slots of all ranks, and come back summed: what the
// layers of backend WideEP do once slots are chosen. Two ways:
//
//   NVLink  BF16 or FP8 rows straight to where the products read them (alltoall/nvlink_group.h).
//   gather  All rows to all ranks, which compute what is theirs, and sums scattered, over a
//           TensorGroup. In fp32, the mode that is held against the CPU: the all-to-all's sums are
//           of BF16 rows, and a second element type there would serve nothing else. Also for rows
//           that the all-to-all cannot carry. Sums are those of `reduced`.
//
// All ranks of a group choose the same way, from the same options.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "alltoall/alltoall.h"
#include "base/arena.h"
#include "base/status.h"
#include "base/stream.h"
#include "dist/communicator.h"
#include "eplb/types.h"
#include "moe/expert_copies.h"
#include "moe/moe_layer.h"

namespace wideep::moe {

struct SlotExchangeOptions {
  eplb::Shape shape;
  MoeShape layer;
  DType weights = DType::kBF16;  // of the experts
  CombineMode combine = CombineMode::kReduced;
  int64_t max_tokens = 0;          // of all ranks in one chunk
  int64_t max_tokens_of_rank = 0;  // the same of one
  // FP8: small batches lie masked, with room for the tokens of all ranks in each of a rank's slots;
  // rows of all of these at most.
  int64_t max_masked_rows = 65536;
  double timeout_seconds = 30;  // after which a peer is given up
};

// A chunk. Collective over the group.
struct SlotBatch {
  MoeInput input;               // ids are slots; those below 0 go nowhere; its residual is added
  std::span<const int> tokens;  // [ranks], of the host: each rank's in this chunk
  ExpertWeights slots;          // [slots_per_rank] of this rank
  // [num_slots]: what all ranks send to each slot is added. Empty: not wanted.
  std::span<int32_t> rows_of_slots;
  ExpertCopies* copies = nullptr;  // experts on the move; null: none
  LayerProfile* profile = nullptr;
};

class SlotExchange {
 public:
  // Collective over the group, which outlives the exchange as the stream does.
  static Result<std::unique_ptr<SlotExchange>> create(Stream& stream, dist::Communicator& group,
                                                      const SlotExchangeOptions& options);
  virtual ~SlotExchange() = default;
  SlotExchange(const SlotExchange&) = delete;
  SlotExchange& operator=(const SlotExchange&) = delete;

  // own: [num_experts] of this rank, all: [ranks, num_experts].
  virtual Status gather_counts(Stream& stream, std::span<const int32_t> own,
                               std::span<int32_t> all) = 0;
  // y [tokens, hidden] in the type of the input.
  virtual Status forward(Stream& stream, Arena& arena, const SlotBatch& batch, MatrixView y) = 0;

  // May the calls be captured in a graph?
  virtual bool is_capturable() const = 0;
  // What the device reported by itself; does not wait for it.
  virtual Status check() const = 0;
  // For people: which way, and why.
  virtual const char* name() const = 0;

 protected:
  SlotExchange() = default;
};

// What an exchange takes of the device beside the arena, and of the arena. Errors are those of
// create().
Result<int64_t> exchange_device_bytes(const SlotExchangeOptions& options);
int64_t exchange_scratch_bytes(const SlotExchangeOptions& options);

// The two ways, for create().
bool can_use_nvlink(const SlotExchangeOptions& options);
Result<std::unique_ptr<SlotExchange>> make_nvlink_exchange(Stream& stream,
                                                           dist::Communicator& group,
                                                           const SlotExchangeOptions& options);
Result<std::unique_ptr<SlotExchange>> make_gather_exchange(Stream& stream,
                                                           dist::Communicator& group,
                                                           const SlotExchangeOptions& options);

// The groups of the all-to-all that the NVLink exchange has: of large batches, and, where
// max_tokens > 0, of those whose rows lie slot by slot with room for all of them, for products that
// touch only the rows in use.
struct NvlinkShapes {
  alltoall::GroupShape large;
  alltoall::GroupShape masked;
};
NvlinkShapes nvlink_shapes(const SlotExchangeOptions& options);

}  // namespace wideep::moe
