#include "alltoall/nvlink_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "alltoall/nvlink_regime.h"
#include "base/random.h"
#include "dist/world.h"

namespace wideep::alltoall {
namespace {

using testing::HasSubstr;

GroupShape deepseek_shape() {
  GroupShape shape;
  shape.num_slots = 256;
  shape.top_k = 8;
  shape.hidden_size = 7168;
  shape.max_tokens_of_rank = 4096;
  shape.max_tokens = 8 * 4096;
  shape.transport = Transport::kNvlink;
  shape.format = RowFormat::kFp8;
  shape.row_alignment = 128;
  return shape;
}

std::string refusal(const GroupShape& shape, int num_ranks) {
  return make_kernel_shape(shape, num_ranks).status().message();
}

TEST(NvlinkPlan, ShapesOfFormats) {
  GroupShape shape = deepseek_shape();
  Shape kernel = make_kernel_shape(shape, 8).value();
  EXPECT_EQ(kernel.row_bytes, 7168);
  EXPECT_EQ(kernel.scale_bytes, 56 * 4);
  EXPECT_EQ(kernel.result_bytes, 2 * 7168);
  EXPECT_EQ(kernel.partials(), 8);
  shape.format = RowFormat::kBf16;
  shape.top_k = 22;
  kernel = make_kernel_shape(shape, 8).value();
  EXPECT_EQ(kernel.row_bytes, 2 * 7168);
  EXPECT_EQ(kernel.scale_bytes, 0);
  EXPECT_EQ(kernel.partials(), 8) << "one row a rank comes back";
  shape.combine = CombineMode::kExact;
  EXPECT_EQ(make_kernel_shape(shape, 8).value().partials(), 22) << "one row a slot comes back";
  shape.format = RowFormat::kBytes;
  shape.row_bytes = 48;
  EXPECT_EQ(make_kernel_shape(shape, 8).value().row_bytes, 48);
}

TEST(NvlinkPlan, RefusesWhatTheKernelsCannotServe) {
  const GroupShape good = deepseek_shape();
  EXPECT_TRUE(make_kernel_shape(good, 72).is_ok() || good.num_slots % 72 != 0);
  EXPECT_THAT(refusal(good, 73), HasSubstr("73 ranks"));
  GroupShape shape = good;
  shape.num_slots = 32768;
  EXPECT_THAT(refusal(shape, 8), HasSubstr("32768 slots"));
  shape = good;
  shape.top_k = 23;
  EXPECT_THAT(refusal(shape, 8), HasSubstr("top-k 23"));
  shape = good;
  shape.format = RowFormat::kF32;
  EXPECT_THAT(refusal(shape, 8), HasSubstr("not F32"));
  shape = good;
  shape.hidden_size = 7184;
  EXPECT_THAT(refusal(shape, 8), HasSubstr("groups of 128"));
  shape.format = RowFormat::kBf16;
  shape.hidden_size = 7172;
  EXPECT_THAT(refusal(shape, 8), HasSubstr("multiples of 16 bytes"));
  shape = good;
  shape.layout = RowLayout::kBySource;
  shape.combine = CombineMode::kExact;
  EXPECT_THAT(refusal(shape, 8), HasSubstr("exact combine needs rows by slot"));
  shape = good;
  shape.weight_scales_input = true;
  EXPECT_THAT(refusal(shape, 8), HasSubstr("weight_scales_input"));
  shape = good;
  shape.max_tokens_of_rank = int64_t{1} << 26;
  EXPECT_THAT(refusal(shape, 8), HasSubstr("2^31"));
}

// Regions do not overlap, in order of their offsets, and each holds what is indexed in it.
TEST(NvlinkPlan, RegionsHoldWhatIsIndexed) {
  Random random(1);
  for (int round = 0; round < 200; ++round) {
    const int ranks = 1 + static_cast<int>(random.below(kMaxNvlinkRanks));
    GroupShape shape = deepseek_shape();
    shape.num_slots = ranks * (1 + static_cast<int>(random.below(40)));
    shape.top_k = 1 + static_cast<int>(random.below(kMaxTopK));
    shape.hidden_size = 128 * (1 + static_cast<int>(random.below(100)));
    shape.max_tokens_of_rank = 1 + static_cast<int>(random.below(5000));
    if (random.below(2) == 0) shape.combine = CombineMode::kExact;
    if (shape.combine != CombineMode::kExact && random.below(2) == 0) {
      shape.layout = RowLayout::kBySource;
    }
    shape.num_counts = static_cast<int>(random.below(300));
    const Shape s = make_kernel_shape(shape, ranks).value();
    const int64_t row = s.by_source ? s.row_bytes : bytes_as_lines(s.row_bytes, s.scale_bytes);
    const Regions at = make_regions(s);
    const int64_t tokens = s.max_tokens;
    const std::vector<std::pair<int64_t, int64_t>> regions = {
        {at.abort, 8},
        {at.dispatch_ready, 4 * ranks},
        {at.combine_ready, 4 * ranks},
        {at.resume, 16 * ranks},
        {at.gathered, int64_t{32} * ranks * ((shape.num_counts + 2) / 3)},
        {at.cells, int64_t{16} * ranks * (s.num_slots + ranks)},
        {at.headers, 32 * ranks * tokens * (s.top_k + 1)},
        {at.small_rows, 2 * ranks * s.small_tokens * bytes_as_lines(s.row_bytes, s.scale_bytes)},
        {at.small_partials,
         2 * int64_t{s.partials()} * s.small_tokens * bytes_as_lines(s.result_bytes, 0)},
        {at.rows, ranks * tokens * row},
        {at.scales, s.by_source ? ranks * tokens * s.scale_bytes : 0},
        {at.partials, s.partials() * tokens * s.result_bytes},
        {at.partial_flags, s.partials() * tokens * 4},
    };
    int64_t end = 0;
    for (const auto& [begin, bytes] : regions) {
      EXPECT_GE(begin, end);
      EXPECT_EQ(begin % 128, 0);
      end = begin + bytes;
    }
    EXPECT_LE(end, at.total);
  }
}

// Lines hold the row, a cell for each the word that its epoch displaces, and rows begin with lines.
TEST(NvlinkPlan, LinesCarryWholeRows) {
  for (int64_t bytes = 16; bytes < 40000; bytes += 16) {
    const int64_t lines = lines_of_row(bytes);
    EXPECT_GE(lines * 128, bytes);
    EXPECT_LT((lines - 1) * 128, bytes) << "no more than needed";
    for (const int64_t scale_bytes : {0, 16, 224}) {
      const int64_t held = bytes_as_lines(bytes, scale_bytes);
      EXPECT_EQ(held % 128, 0);
      EXPECT_GE(held, lines * (128 + 8) + scale_bytes / 4 * 8);
      EXPECT_LT(held - 128, lines * (128 + 8) + scale_bytes / 4 * 8);
    }
  }
  EXPECT_EQ(bytes_as_lines(14336, 0), 112 * 136);  // 7168 BF16
}

// Against a worst case made by hand: every pair of every token on one rank, spread over its slots.
TEST(NvlinkPlan, OutputHoldsTheWorstBatch) {
  GroupShape shape = deepseek_shape();
  shape.max_tokens_of_rank = 3;
  shape.max_tokens = 2 * 3;
  shape.num_slots = 10;
  shape.top_k = 2;
  shape.row_alignment = 4;
  // 12 pairs over 5 slots: 4 + 4 + 4 + ..., with each slot's rows rounded up to 4.
  int64_t worst = 0;
  for (int filled = 1; filled <= 5; ++filled) {
    // One slot takes all but one row of each of the others.
    const int64_t most = (12 - (filled - 1) + 3) / 4 * 4 + (filled - 1) * 4;
    worst = std::max(worst, most);
  }
  EXPECT_GE(output_rows(shape, 2), worst);
  EXPECT_LE(output_rows(shape, 2), worst + 4);
  shape.layout = RowLayout::kBySlotMasked;
  EXPECT_EQ(output_rows(shape, 2), 6);
  shape.layout = RowLayout::kBySource;
  EXPECT_EQ(output_rows(shape, 2), 6);
  shape.max_rows = 5;
  EXPECT_EQ(output_rows(shape, 2), 5);
}

TEST(NvlinkPlan, ScansAlwaysHaveAWarp) {
  EXPECT_EQ(scan_warps(256, 28), 28);
  EXPECT_EQ(scan_warps(4096, 28), 4);
  EXPECT_EQ(scan_warps(kMaxSlots, 28), 1);
}

TEST(NvlinkPlan, SmallBatchesFitTheirBlocks) {
  const Shape shape = make_kernel_shape(deepseek_shape(), 2).value();
  EXPECT_EQ(shape.small_tokens, kSmallTokens);
  EXPECT_TRUE(is_small_batch(shape, kSmallTokens));
  EXPECT_FALSE(is_small_batch(shape, kSmallTokens + 1));
  GroupShape wide = deepseek_shape();
  wide.hidden_size = 16384;  // 32 KiB come back
  EXPECT_EQ(make_kernel_shape(wide, 2).value().small_tokens, 0);
  GroupShape many = deepseek_shape();
  many.num_slots = 32766;
  many.top_k = 22;
  const Shape crowded = make_kernel_shape(many, 2).value();
  const int64_t words =
      kSmallSharedWords + crowded.columns() + int64_t{2} * crowded.small_tokens * crowded.top_k;
  EXPECT_LE(4 * words, kSharedMemoryOfKernel);
}

// Two blocks of a small batch share a multiprocessor. The blocks of a large batch wait for each
// other, so each must have one of its own, and 32 are left to others by default. Some of the blocks
// send, the others receive.
void expect_blocks(const Shape& shape, int64_t tokens, int limit) {
  constexpr int kSms = 132;
  const Blocks blocks = choose_blocks(shape, tokens, kSms, limit);
  const bool small = is_small_batch(shape, tokens);
  const int room = small       ? 2 * (limit > 0 ? limit : kSms)
                   : limit > 0 ? std::max(2, limit)
                               : kSms - 32;
  EXPECT_LE(blocks.dispatch, room);
  EXPECT_LE(blocks.combine, room);
  EXPECT_GE(blocks.push, 1);
  EXPECT_LT(blocks.push, blocks.dispatch);
  EXPECT_GE(blocks.combine_push, 1);
  EXPECT_LT(blocks.combine_push, blocks.combine);
}

TEST(NvlinkPlan, BlocksStayWithinTheirLimit) {
  GroupShape wide = deepseek_shape();
  wide.hidden_size = 16384;  // never a small batch
  for (GroupShape group : {deepseek_shape(), wide}) {
    for (const RowLayout layout : {RowLayout::kBySlot, RowLayout::kBySource}) {
      group.layout = layout;
      const Shape shape = make_kernel_shape(group, 8).value();
      for (const int64_t tokens : {1, 8, 128, kSmallTokens + 1, 4096}) {
        for (const int limit : {0, 1, 2, 3, 16, 132}) expect_blocks(shape, tokens, limit);
      }
    }
  }
}

// By source, few blocks receive.
TEST(NvlinkPlan, MostBlocksPushBySource) {
  GroupShape group = deepseek_shape();
  group.layout = RowLayout::kBySource;
  const Shape shape = make_kernel_shape(group, 2).value();
  EXPECT_EQ(choose_blocks(shape, 4096, 132, 16).push, 14);
  EXPECT_EQ(choose_blocks(shape, 4096, 132, 0).push, 64);
}

// A block a part of a row where there are few, and blocks beside them that count the batch.
TEST(NvlinkPlan, SmallBatchesSpreadOverBlocks) {
  const Shape shape = make_kernel_shape(deepseek_shape(), 2).value();
  const RowParts parts = make_row_parts(shape.row_bytes);
  const Blocks one = choose_blocks(shape, 1, 132, 0);
  EXPECT_EQ(one.push, parts.count + 2);
  EXPECT_EQ(one.dispatch, one.push + 2 * parts.count);
  for (int64_t bytes = 16; bytes < 40000; bytes += 16) {
    const RowParts of_row = make_row_parts(bytes);
    const int vectors = lines_of_row(bytes) * 8;
    EXPECT_EQ(of_row.vectors % 8, 0);
    EXPECT_LE(of_row.vectors, kSmallThreads);
    EXPECT_GE(of_row.count * of_row.vectors, vectors);
    EXPECT_LT((of_row.count - 1) * of_row.vectors, vectors) << "each part has vectors";
  }
}

TEST(NvlinkPlan, ErrorsSayWhoAndWhat) {
  ErrorRecord record;
  EXPECT_TRUE(status_of(record, 1, 30).is_ok());
  record.kind = ErrorKind::kTimeout;
  record.phase = Phase::kCombine;
  record.awaited = Awaited::kPartial;
  record.peer = 3;
  record.epoch = 17;
  record.index = 5;
  record.expected = 17;
  record.seen = 15;
  const Status timeout = status_of(record, 1, 30);
  EXPECT_EQ(timeout.code(), StatusCode::kAborted);
  EXPECT_THAT(
      timeout.message(),
      HasSubstr("rank 1: combine, epoch 17: waited 30 s for rank 3: a summed row 5, expected "
                "17, seen 15"));
  record.kind = ErrorKind::kAborted;
  EXPECT_THAT(status_of(record, 1, 30).message(), HasSubstr("rank 3 gave up first"));
  record.kind = ErrorKind::kBadSlot;
  record.seen = static_cast<uint64_t>(int64_t{-2});
  record.expected = 256;
  EXPECT_THAT(status_of(record, 1, 30).message(),
              HasSubstr("token 5: slot -2 is not in [-1, 256)"));
  record.kind = ErrorKind::kOverflow;
  record.seen = 900;
  record.expected = 800;
  record.index = -1;
  EXPECT_THAT(
      status_of(record, 1, 30).message(),
      HasSubstr("900 rows for this rank: its output holds 800: make the group with max_rows "
                "900"));
}

// Without a GPU the front door says so, on every rank; host transports refuse what only GPUs do.
TEST(NvlinkPlan, FrontDoorRefusesWithoutGpu) {
  dist::World world = dist::World::local(2).value();
  const Status status = world.run([](dist::Communicator& group) -> Status {
    GroupShape shape = deepseek_shape();
    shape.transport = Transport::kMessages;
    return AllToAll::create(group, shape).status();
  });
  EXPECT_THAT(status.message(), HasSubstr("use transport NVLink for other formats"));
}

}  // namespace
}  // namespace wideep::alltoall
