// Rows to all ranks, sums scattered: slots are the experts of the conventional layer.
#include <utility>
#include <vector>

#include "dist/tensor_group.h"
#include "kernels/elementwise.h"
#include "kernels/replica_choice.h"
#include "kernels/transfer.h"
#include "moe/conventional_layer.h"
#include "moe/slot_exchange.h"

namespace wideep::moe {
namespace {

class GatherExchange : public SlotExchange {
 public:
  GatherExchange(const SlotExchangeOptions& options, int rank,
                 std::unique_ptr<dist::TensorGroup> group)
      : options_(options), rank_(rank), group_(std::move(group)) {}

  Status gather_counts(Stream& stream, std::span<const int32_t> own,
                       std::span<int32_t> all) override {
    if (group_ == nullptr) {
      kernels::copy_bytes(stream, std::as_bytes(own), std::as_writable_bytes(all).data());
      return Status::ok();
    }
    const std::vector<int64_t> bytes(static_cast<size_t>(options_.shape.num_ranks),
                                     static_cast<int64_t>(own.size_bytes()));
    return group_->all_gather_v(std::as_bytes(own), bytes, std::as_writable_bytes(all));
  }

  Status forward(Stream& stream, Arena& arena, const SlotBatch& batch, MatrixView y) override {
    const Arena::Scope scope(arena);
    if (!batch.rows_of_slots.empty()) RETURN_IF_ERROR(count(stream, arena, batch));
    ConventionalLayer layer({.shape = options_.layer,
                             .first_expert = rank_ * options_.shape.slots_per_rank(),
                             .experts = batch.slots,
                             .gather = group_.get(),
                             .max_num_tokens = static_cast<int>(options_.max_tokens),
                             .on_gpu = true});
    layer.set_profile(batch.profile);
    MoeInput input = batch.input;
    if (layer.adds_residual()) return layer.forward(stream, arena, input, batch.tokens, y);
    const ConstMatrixView residual = std::exchange(input.residual, {});
    RETURN_IF_ERROR(layer.forward(stream, arena, input, batch.tokens, y));
    if (input.side != nullptr) input.side->join(stream);
    if (residual.data != nullptr) kernels::add(stream, residual, y);
    return Status::ok();
  }

  bool is_capturable() const override { return group_ == nullptr || group_->is_capturable(); }
  Status check() const override { return Status::ok(); }
  const char* name() const override { return "all-gather and reduce-scatter"; }

 private:
  // What every rank sends to each slot, as the all-to-all's dispatch would tell.
  Status count(Stream& stream, Arena& arena, const SlotBatch& batch) {
    const Arena::Scope scope(arena);
    const int num_slots = options_.shape.num_slots;
    const std::span<int32_t> own = arena.take<int32_t>(num_slots);
    const std::span<int32_t> all =
        arena.take<int32_t>(int64_t{num_slots} * options_.shape.num_ranks);
    kernels::count_ids(stream, batch.input.all_ids(options_.layer.top_k), own);
    RETURN_IF_ERROR(gather_counts(stream, own, all));
    kernels::add_row_sums(stream, all.data(), options_.shape.num_ranks, batch.rows_of_slots);
    return Status::ok();
  }

  const SlotExchangeOptions options_;
  const int rank_;
  std::unique_ptr<dist::TensorGroup> group_;  // null for one rank
};

}  // namespace

Result<std::unique_ptr<SlotExchange>> make_gather_exchange(Stream& stream,
                                                           dist::Communicator& group,
                                                           const SlotExchangeOptions& options) {
  CHECK(stream.is_cuda());
  if (options.combine == CombineMode::kExact && group.size() > 1) {
    return Status::invalid_input(
        "load_balancer.combine: exact: on GPUs it is the NVLink all-to-all's, whose rows are BF16 "
        "or "
        "FP8: use --dtype bf16 or fp8, or combine reduced");
  }
  std::unique_ptr<dist::TensorGroup> tensors;
  if (group.size() > 1) {
    ASSIGN_OR_RETURN(tensors, dist::TensorGroup::create(group, stream));
  }
  return std::unique_ptr<SlotExchange>(
      std::make_unique<GatherExchange>(options, group.rank(), std::move(tensors)));
}

}  // namespace wideep::moe
