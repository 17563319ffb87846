#include "moe/slot_exchange.h"

#include <gtest/gtest.h>

#include "alltoall/nvlink_plan.h"
#include "base/random.h"
#include "kernels/grouped_gemm.h"

namespace wideep::moe {
namespace {

SlotExchangeOptions deepseek(int ranks, DType weights) {
  SlotExchangeOptions options;
  options.shape = {256, 288, ranks};
  options.layer = {.hidden_size = 7168, .intermediate_size = 2048, .top_k = 8};
  options.weights = weights;
  options.max_tokens = 9216 + ranks;
  options.max_tokens_of_rank = 8192;
  return options;
}

TEST(SlotExchange, RowsThatTheAllToAllCannotCarryAreGathered) {
  SlotExchangeOptions options = deepseek(8, DType::kBF16);
  EXPECT_TRUE(can_use_nvlink(options));
  options.weights = DType::kF32;
  EXPECT_FALSE(can_use_nvlink(options));
  options.weights = DType::kF8E4M3;
  EXPECT_TRUE(can_use_nvlink(options));
  options.layer.hidden_size = 7168 + 64;  // half a scale
  EXPECT_FALSE(can_use_nvlink(options));
  options.weights = DType::kBF16;
  EXPECT_TRUE(can_use_nvlink(options));
  options.layer.hidden_size = 100;  // not whole vectors
  EXPECT_FALSE(can_use_nvlink(options));
  // Llama 4's weights go in with the rows: one a row, or gathered.
  options = deepseek(8, DType::kBF16);
  options.layer.weight_scales_input = true;
  EXPECT_FALSE(can_use_nvlink(options));
  options.layer.top_k = 1;
  EXPECT_TRUE(can_use_nvlink(options));
  EXPECT_FALSE(can_use_nvlink(deepseek(96, DType::kBF16)));
}

TEST(SlotExchange, Bf16HasNoMaskedRows) {
  const NvlinkShapes shapes = nvlink_shapes(deepseek(8, DType::kBF16));
  EXPECT_EQ(shapes.masked.max_tokens, 0);
  EXPECT_EQ(shapes.large.format, alltoall::RowFormat::kBf16);
  EXPECT_EQ(shapes.large.row_alignment, kernels::kGroupAlignment);
}

// Groups that the all-to-all accepts, with room for what a chunk may bring.
TEST(SlotExchange, GroupsHoldTheLargestChunk) {
  Random random(1);
  for (int trial = 0; trial < 200; ++trial) {
    SlotExchangeOptions options = deepseek(1 + static_cast<int>(random.below(72)), DType::kF8E4M3);
    const int ranks = options.shape.num_ranks;
    options.shape.num_slots = ranks * (1 + static_cast<int>(random.below(40)));
    options.max_tokens_of_rank = 1 + static_cast<int>(random.below(9000));
    options.max_tokens = ranks * options.max_tokens_of_rank;
    const NvlinkShapes shapes = nvlink_shapes(options);
    ASSERT_TRUE(alltoall::make_kernel_shape(shapes.large, ranks).is_ok());
    EXPECT_EQ(alltoall::output_rows(shapes.large, ranks) % kernels::kGroupAlignment, 0);
    const int64_t tokens = shapes.masked.max_tokens_of_rank;
    EXPECT_LE(tokens, options.max_tokens_of_rank);
    if (tokens == 0) {
      EXPECT_GT(options.shape.num_slots, options.max_masked_rows);
      continue;
    }
    ASSERT_TRUE(alltoall::make_kernel_shape(shapes.masked, ranks).is_ok());
    // What the tensor cores take, and every token of all ranks in one slot.
    EXPECT_EQ(shapes.masked.max_rows % 64, 0);
    EXPECT_GE(shapes.masked.max_rows, tokens * ranks);
    EXPECT_LE(shapes.masked.max_rows * options.shape.slots_per_rank(),
              options.max_masked_rows + 64 * options.shape.slots_per_rank());
  }
}

}  // namespace
}  // namespace wideep::moe
