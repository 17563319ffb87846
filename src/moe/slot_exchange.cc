#include "moe/slot_exchange.h"

#include <algorithm>

#include "alltoall/nvlink_plan.h"
#include "alltoall/nvlink_types.h"
#include "kernels/grouped_gemm.h"
#include "kernels/quantize.h"
#include "moe/conventional_layer.h"
#include "moe/device_experts.h"

namespace wideep::moe {
namespace {

constexpr int64_t kMaskedAlignment = 64;

bool is_fp8(const SlotExchangeOptions& options) {
  return options.weights == DType::kF8E4M3;
}

// Tokens of a rank up to which rows lie masked; 0: never.
int64_t masked_tokens(const SlotExchangeOptions& options) {
  // Products of BF16 read every row that there is room for.
  if (!is_fp8(options)) return 0;
  return std::min(options.max_tokens_of_rank, options.max_masked_rows / options.shape.num_slots);
}

}  // namespace

bool can_use_nvlink(const SlotExchangeOptions& options) {
  // A row travels once for all its slots, so it has one scale.
  if (options.layer.weight_scales_input && options.layer.top_k > 1) return false;
  if (options.weights == DType::kF32 || options.shape.num_ranks > alltoall::kMaxNvlinkRanks) {
    return false;
  }
  return options.layer.hidden_size % (is_fp8(options) ? kernels::kScaleColumns : 8) == 0;
}

NvlinkShapes nvlink_shapes(const SlotExchangeOptions& options) {
  alltoall::GroupShape shape;
  shape.transport = alltoall::Transport::kNvlink;
  shape.num_slots = options.shape.num_slots;
  shape.top_k = options.layer.top_k;
  shape.hidden_size = options.layer.hidden_size;
  shape.max_tokens = options.max_tokens;
  shape.max_tokens_of_rank = options.max_tokens_of_rank;
  shape.combine = options.combine;
  shape.format = is_fp8(options) ? alltoall::RowFormat::kFp8 : alltoall::RowFormat::kBf16;
  shape.num_counts = options.shape.num_experts;
  shape.timeout_seconds = options.timeout_seconds;
  NvlinkShapes shapes = {shape, shape};
  shapes.large.row_alignment = kernels::kGroupAlignment;
  const int64_t tokens = masked_tokens(options);
  shapes.masked.layout = alltoall::RowLayout::kBySlotMasked;
  shapes.masked.max_tokens_of_rank = tokens;
  shapes.masked.max_tokens = tokens * options.shape.num_ranks;
  shapes.masked.max_rows =
      (shapes.masked.max_tokens + kMaskedAlignment - 1) / kMaskedAlignment * kMaskedAlignment;
  return shapes;
}

int64_t exchange_scratch_bytes(const SlotExchangeOptions& options) {
  const int ranks = options.shape.num_ranks;
  const int64_t tokens = options.max_tokens_of_rank;
  if (!can_use_nvlink(options)) {
    ConventionalLayer::Options layer;
    layer.shape = options.layer;
    layer.max_num_tokens = static_cast<int>(options.max_tokens);
    return ConventionalLayer::device_scratch_bytes(layer, options.shape.slots_per_rank(), tokens,
                                                   ranks) +
           Arena::matrix_bytes((ranks + 1) * int64_t{options.shape.num_slots}, 1) +
           2 * Arena::kAlignment;
  }
  const NvlinkShapes shapes = nvlink_shapes(options);
  const int64_t rows = std::max(alltoall::output_rows(shapes.large, ranks),
                                options.shape.slots_per_rank() * shapes.masked.max_rows);
  const int64_t scaled = options.layer.weight_scales_input
                             ? Arena::matrix_bytes(tokens, options.layer.hidden_size, DType::kBF16)
                             : 0;
  return scaled + device_slots_scratch_bytes(options.layer, rows);
}

Result<std::unique_ptr<SlotExchange>> SlotExchange::create(Stream& stream,
                                                           dist::Communicator& group,
                                                           const SlotExchangeOptions& options) {
  return can_use_nvlink(options) ? make_nvlink_exchange(stream, group, options)
                                 : make_gather_exchange(stream, group, options);
}

}  // namespace wideep::moe
