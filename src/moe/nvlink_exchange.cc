// Rows over the NVLink all-to-all. Two groups where weights are FP8: batches of a few tokens a rank
// lie masked, so that products and quantisation touch the rows in use alone; larger ones lie one
// slot behind the other.
#include <fmt/format.h>

#include <algorithm>

#include "alltoall/nvlink_group.h"
#include "base/cuda.h"
#include "dist/gpu_ranks.h"
#include "dist/launch_together.h"
#include "kernels/elementwise.h"
#include "kernels/replica_choice.h"
#include "kernels/transfer.h"
#include "moe/device_experts.h"
#include "moe/slot_exchange.h"

namespace wideep::moe {
namespace {

using alltoall::NvlinkGroup;

// Multiprocessors that the all-to-all's kernels of all ranks on one GPU have together: ranks wait
// for each other there, so all of them must fit at once (docs/alltoall.md).
constexpr int kSmsOfSharedGpu = 60;

Result<std::unique_ptr<NvlinkGroup>> make_group(dist::Communicator& group,
                                                const alltoall::GroupShape& shape) {
  ASSIGN_OR_RETURN(std::unique_ptr<alltoall::AllToAll> made,
                   alltoall::AllToAll::create(group, shape));
  return std::unique_ptr<NvlinkGroup>(static_cast<NvlinkGroup*>(made.release()));
}

class NvlinkExchange : public SlotExchange {
 public:
  NvlinkExchange(dist::Communicator& group, const SlotExchangeOptions& options)
      : group_(group), options_(options), shapes_(nvlink_shapes(options)) {}

  Status start() {
    ASSIGN_OR_RETURN(sharing_, dist::most_ranks_of_a_gpu(group_));
    if (sharing_ > 1) {
      shapes_.large.num_sms = shapes_.masked.num_sms = std::max(1, kSmsOfSharedGpu / sharing_);
    }
    ASSIGN_OR_RETURN(large_, make_group(group_, shapes_.large));
    if (shapes_.masked.max_tokens == 0) return Status::ok();
    ASSIGN_OR_RETURN(masked_, make_group(group_, shapes_.masked));
    return Status::ok();
  }

  Status gather_counts(Stream& stream, std::span<const int32_t> own,
                       std::span<int32_t> all) override {
    return together(stream, [&] { return large_->gather_counts(stream, own, all); });
  }

  Status forward(Stream& stream, Arena& arena, const SlotBatch& batch, MatrixView y) override {
    const Arena::Scope scope(arena);
    const int64_t most = *std::ranges::max_element(batch.tokens);
    const bool is_masked = masked_ != nullptr && most <= shapes_.masked.max_tokens_of_rank;
    NvlinkGroup& group = is_masked ? *masked_ : *large_;
    const MoeInput& input = batch.input;
    ConstMatrixView x = input.x;
    const float* weights = input.weights;
    if (options_.layer.weight_scales_input) {
      // One expert a token, so one weight a row.
      const MatrixView scaled = arena.matrix(x.rows, x.columns, x.dtype);
      kernels::copy_matrix(stream, x, scaled);
      kernels::scale_rows(stream, {weights, static_cast<size_t>(x.rows)}, scaled);
      x = scaled;
      weights = nullptr;
    }
    RETURN_IF_ERROR(group.plan(stream, {.num_tokens = x.rows,
                                        .slots = input.all_ids(options_.layer.top_k),
                                        .weights = weights,
                                        .most_tokens = most}));
    RETURN_IF_ERROR(meet_for_phase(batch.profile, stream, Phase::kDispatch));
    alltoall::Received received;
    RETURN_IF_ERROR(together(stream, [&]() -> Status {
      ASSIGN_OR_RETURN(received, group.dispatch(stream, {.x = x, .scales = {}}));
      return Status::ok();
    }));
    if (!is_masked && batch.copies != nullptr) RETURN_IF_ERROR(batch.copies->links_are_idle());
    kernels::add_row_sums(stream, received.rows_of_slots.data(), options_.shape.num_ranks,
                          batch.rows_of_slots);
    begin_phase(batch.profile, stream, Phase::kExperts);
    const int64_t pairs = most * options_.shape.num_ranks * options_.layer.top_k;
    run_slots_on_device(
        stream, arena,
        {.shape = options_.layer,
         .slots = batch.slots,
         .received = received,
         .group_rows = is_masked ? shapes_.masked.max_rows : 0,
         .expected_rows = (pairs + options_.shape.num_slots - 1) / options_.shape.num_slots});
    RETURN_IF_ERROR(meet_for_phase(batch.profile, stream, Phase::kCombine));
    if (input.side != nullptr) input.side->join(stream);
    return together(stream, [&] {
      return group.combine(stream, {.rows = {}, .residual = input.residual, .y = y});
    });
  }

  // On a GPU that ranks share, kernels of a graph may be queued behind those of another rank's that
  // wait for them.
  bool is_capturable() const override { return sharing_ == 1; }
  Status check() const override {
    RETURN_IF_ERROR(large_->check());
    return masked_ != nullptr ? masked_->check() : Status::ok();
  }
  const char* name() const override {
    return options_.weights == DType::kF8E4M3 ? "NVLink, FP8 rows" : "NVLink, BF16 rows";
  }

 private:
  // Where ranks share a GPU, for tests, a kernel that waits for a rank must not keep it from what
  // the whole GPU has to be idle for, as loading a kernel may.
  Status together(Stream& stream, const auto& launch) {
    if (sharing_ > 1) RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_of(stream)));
    return dist::launch_together(group_, launch);
  }

  dist::Communicator& group_;
  const SlotExchangeOptions options_;
  NvlinkShapes shapes_;
  int sharing_ = 1;  // ranks of the group on one GPU
  std::unique_ptr<NvlinkGroup> large_;
  std::unique_ptr<NvlinkGroup> masked_;
};

}  // namespace

Result<std::unique_ptr<SlotExchange>> make_nvlink_exchange(Stream& stream,
                                                           dist::Communicator& group,
                                                           const SlotExchangeOptions& options) {
  CHECK(stream.is_cuda());
  auto exchange = std::make_unique<NvlinkExchange>(group, options);
  RETURN_IF_ERROR(exchange->start());
  return std::unique_ptr<SlotExchange>(std::move(exchange));
}

Result<int64_t> exchange_device_bytes(const SlotExchangeOptions& options) {
  if (!can_use_nvlink(options)) return int64_t{0};
  const NvlinkShapes shapes = nvlink_shapes(options);
  const int ranks = options.shape.num_ranks;
  ASSIGN_OR_RETURN(const int64_t large, NvlinkGroup::device_bytes(shapes.large, ranks));
  if (shapes.masked.max_tokens == 0) return large;
  ASSIGN_OR_RETURN(const int64_t masked, NvlinkGroup::device_bytes(shapes.masked, ranks));
  return large + masked;
}

}  // namespace wideep::moe
