#include "kernels/attention_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "kernels/kernels_testing.h"

namespace wideep::kernels {
namespace {

constexpr int kUnwritten = -99;

std::vector<ScheduledSequence> random_batch(Random& random, int sequences, int most_rows,
                                            int most_keys) {
  std::vector<ScheduledSequence> batch;
  int row = 0;
  int page = 0;
  for (int s = 0; s < sequences; ++s) {
    const int rows = between(random, 0, most_rows);
    const int keys = rows == 0 ? 0 : rows + between(random, 0, most_keys);
    batch.push_back({row, rows, keys, page});
    row += rows;
    page += (keys + 15) / 16;
  }
  return batch;
}

std::vector<ScheduledSequence> decode_batch(const std::vector<int>& keys) {
  std::vector<ScheduledSequence> batch;
  for (int s = 0; s < std::ssize(keys); ++s) batch.push_back({s, 1, keys[s], 0});
  return batch;
}

// A schedule that is filled in memory of its own.
template <typename Schedule>
struct Filled {
  Schedule schedule;
  std::vector<int> memory;
};

Filled<LatentSchedule> fill_latent(int num_sms, int num_heads, int most_rows,
                                   const std::vector<ScheduledSequence>& batch) {
  Filled<LatentSchedule> result;
  result.schedule = LatentSchedule::of_device(num_sms, num_heads, most_rows);
  const int64_t tiles = result.schedule.count_tiles(batch);
  IntTable size(nullptr);
  LatentSchedule(result.schedule).place(tiles, size);
  result.memory.assign(size.used(), kUnwritten);
  IntTable table(result.memory.data());
  result.schedule.place(tiles, table);
  result.schedule.fill(batch);
  return result;
}

// Every tile's keys belong to pieces without gaps, and what is in several pieces is merged once.
void expect_complete(const LatentSchedule& schedule, const std::vector<ScheduledSequence>& batch) {
  std::map<std::pair<int, int>, std::vector<int>> pieces;  // of (first row, first pair)
  std::set<int> partial_rows;
  const int num_pieces = schedule.group_begin[schedule.groups];
  for (int p = 0; p < num_pieces; ++p) {
    pieces[{schedule.first_row[p], schedule.first_pair[p]}].push_back(p);
    EXPECT_EQ(schedule.begin_key[p] % LatentSchedule::kBlockKeys, 0);
  }
  std::map<int, int> merged;  // pair of all rows and heads -> first partial row
  for (int b = 0; b < schedule.num_blocks(); ++b) {
    for (int i = 0; i < schedule.merge_end[b] - schedule.merge_begin[b]; ++i) {
      const bool is_new =
          merged.insert({schedule.merge_begin[b] + i, schedule.merge_partial[b] + i}).second;
      EXPECT_TRUE(is_new);
    }
  }
  size_t num_tiles = 0;
  size_t num_merged = 0;
  for (const ScheduledSequence& sequence : batch) {
    const int pairs = sequence.num_rows * schedule.num_heads;
    for (int first = 0; first < pairs; first += schedule.tile_pairs(), ++num_tiles) {
      const int count = std::min(pairs - first, schedule.tile_pairs());
      const int last_row = (first + count - 1) / schedule.num_heads;
      const std::vector<int>& of_tile = pieces[{sequence.first_row, first}];
      ASSERT_FALSE(of_tile.empty());
      int key = 0;
      for (const int p : of_tile) {
        EXPECT_EQ(schedule.begin_key[p], key);
        EXPECT_EQ(schedule.num_rows[p], sequence.num_rows);
        EXPECT_EQ(schedule.keys[p], sequence.keys);
        EXPECT_EQ(schedule.first_page[p], sequence.first_page);
        EXPECT_EQ(schedule.partial[p] < 0, of_tile.size() == 1);
        key = schedule.end_key[p];
      }
      EXPECT_EQ(key, sequence.keys - sequence.num_rows + 1 + last_row);
      if (of_tile.size() == 1) continue;
      for (int i = 0; i < count; ++i, ++num_merged) {
        const int pair = sequence.first_row * schedule.num_heads + first + i;
        ASSERT_TRUE(merged.contains(pair));
        for (size_t j = 0; j < of_tile.size(); ++j) {
          const int row = schedule.partial[of_tile[j]] + i;
          EXPECT_EQ(merged[pair] + static_cast<int>(j) * count, row);
          EXPECT_TRUE(partial_rows.insert(row).second);
          EXPECT_LT(row, schedule.max_partial_rows());
        }
      }
    }
  }
  EXPECT_EQ(pieces.size(), num_tiles);
  EXPECT_EQ(merged.size(), num_merged);
}

TEST(LatentScheduleTest, CoversEveryKeyOnce) {
  Random random(1);
  for (int trial = 0; trial < 60; ++trial) {
    const int num_heads = std::vector<int>{1, 8, 16, 64, 128}[random.below(5)];
    const int most_rows = trial % 2 ? 1 : 20;
    const auto batch =
        random_batch(random, between(random, 0, 90), most_rows, trial % 3 ? 5000 : 100);
    const auto filled = fill_latent(132, num_heads, most_rows, batch);
    expect_complete(filled.schedule, batch);
    if (testing::Test::HasFailure()) return;
  }
}

TEST(LatentScheduleTest, SharesAreEven) {
  Random random(2);
  for (const int sequences : {1, 3, 48, 64, 65, 96, 200}) {
    std::vector<int> keys(sequences);
    for (int& key : keys) key = between(random, 2000, 9000);
    const auto batch = decode_batch(keys);
    const auto filled = fill_latent(132, 128, 1, batch);
    const LatentSchedule& schedule = filled.schedule;
    ASSERT_EQ(schedule.blocks_of_group, 2);
    int64_t total = 0;
    int64_t most = 0;
    for (int g = 0; g < schedule.groups; ++g) {
      int64_t share = 0;
      for (int p = schedule.group_begin[g]; p < schedule.group_begin[g + 1]; ++p) {
        share += schedule.end_key[p] - schedule.begin_key[p];
      }
      total += share;
      most = std::max(most, share);
    }
    // Within the smallest piece and what pieces cost.
    EXPECT_LE(most, total / schedule.groups + 10 * LatentSchedule::kBlockKeys) << sequences;
  }
}

TEST(LatentScheduleTest, SequencesWithoutKeysHaveAPieceAllTheSame) {
  const auto filled = fill_latent(4, 64, 1, decode_batch({0, 100, 0}));
  const LatentSchedule& schedule = filled.schedule;
  ASSERT_EQ(schedule.group_begin[schedule.groups], 3);
  EXPECT_EQ(schedule.end_key[0], 0);
  EXPECT_EQ(schedule.end_key[1], 100);
  EXPECT_EQ(schedule.end_key[2], 0);
  for (int p = 0; p < 3; ++p) EXPECT_EQ(schedule.partial[p], -1);
}

TEST(LatentScheduleTest, FitsHeadsThatDivideATile) {
  for (const int heads : {1, 2, 16, 64, 128}) EXPECT_TRUE(LatentSchedule::fits(heads)) << heads;
  for (const int heads : {0, 24, 96, 256}) EXPECT_FALSE(LatentSchedule::fits(heads)) << heads;
}

Filled<GroupedSchedule> fill_grouped(int kv_heads, int group, int page_size, bool is_fixed,
                                     const std::vector<ScheduledSequence>& batch) {
  Filled<GroupedSchedule> result;
  result.schedule = GroupedSchedule::of_batch(132, kv_heads, group, page_size, batch, is_fixed);
  IntTable size(nullptr);
  GroupedSchedule(result.schedule).place(batch, size);
  result.memory.assign(size.used(), kUnwritten);
  IntTable table(result.memory.data());
  result.schedule.place(batch, table);
  result.schedule.fill(batch);
  return result;
}

void expect_complete(const GroupedSchedule& schedule, const std::vector<ScheduledSequence>& batch) {
  std::set<std::vector<int>> blocks;
  for (int b = 0; b < schedule.grid; ++b) {
    if (!schedule.is_valid[b]) continue;
    EXPECT_TRUE(blocks.insert({schedule.sequence[b], schedule.tile[b], schedule.chunk[b]}).second);
  }
  size_t num_blocks = 0;
  int row = 0;
  int out_row = 0;
  for (int s = 0; s < std::ssize(batch); ++s) {
    if (batch[s].is_prompt) {
      EXPECT_EQ(schedule.row_begin[s], out_row);
      row += batch[s].num_rows;
      if (!schedule.is_split) out_row += batch[s].num_rows;
      continue;
    }
    const int chunks = std::max(
        (batch[s].keys + int64_t{*schedule.chunk_keys} - 1) / *schedule.chunk_keys, int64_t{1});
    EXPECT_TRUE(schedule.is_split || chunks == 1);
    const int pairs = batch[s].num_rows * schedule.group;
    for (int tile = 0; tile * schedule.tile_pairs < pairs; ++tile) {
      for (int chunk = 0; chunk < chunks; ++chunk, ++num_blocks) {
        EXPECT_TRUE(blocks.contains({s, tile, chunk}));
      }
    }
    EXPECT_EQ(schedule.row_begin[s], out_row);
    for (int i = 0; i < batch[s].num_rows; ++i, ++row, out_row += chunks) {
      EXPECT_EQ(schedule.merge_begin[row], out_row);
    }
    if (batch[s].keys > 0) {
      EXPECT_EQ((batch[s].keys - schedule.last_page_keys[s]) % schedule.page_size, 0);
      EXPECT_GT(schedule.last_page_keys[s], 0);
      EXPECT_LE(schedule.last_page_keys[s], schedule.page_size);
    }
  }
  EXPECT_EQ(blocks.size(), num_blocks);
  EXPECT_EQ(schedule.merge_begin[row], out_row);
  EXPECT_EQ(schedule.row_begin[batch.size()], out_row);
  EXPECT_TRUE(!schedule.is_split || out_row <= schedule.partial_rows);
}

TEST(GroupedScheduleTest, CoversEveryChunkOnce) {
  Random random(3);
  bool was_split = false;
  bool was_whole = false;
  for (int trial = 0; trial < 80; ++trial) {
    const int group = std::vector<int>{1, 4, 5, 8}[random.below(4)];
    auto batch = random_batch(random, between(random, 1, 60), trial % 2 ? 1 : 300, 5000);
    for (ScheduledSequence& sequence : batch) {
      sequence.is_prompt = trial % 5 == 0 && sequence.num_rows >= PromptSchedule::kFewestRows;
    }
    const auto filled =
        fill_grouped(between(random, 1, 8), group, trial % 3 ? 32 : 7, false, batch);
    expect_complete(filled.schedule, batch);
    (filled.schedule.is_split ? was_split : was_whole) = true;
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_TRUE(was_split && was_whole);
}

TEST(GroupedScheduleTest, OneLongSequenceFillsTheDevice) {
  const auto filled = fill_grouped(4, 8, 32, false, decode_batch({100'000}));
  EXPECT_TRUE(filled.schedule.is_split);
  EXPECT_GE(filled.schedule.grid, 60);  // of 2 * 132 / 4 = 66
  EXPECT_LE(filled.schedule.grid, 66);
}

// What a captured graph holds: the shape of the launch, and where the tables are.
TEST(GroupedScheduleTest, FixedShapesDependOnTheNumberOfSequencesAlone) {
  Random random(4);
  for (const int sequences : {1, 7, 30, 60, 100}) {
    std::vector<GroupedSchedule> schedules;
    std::vector<int64_t> places;  // of the last table
    for (int trial = 0; trial < 10; ++trial) {
      std::vector<int> keys(sequences);
      for (int& key : keys) key = between(random, 0, trial % 2 ? 100 : 20'000);
      const auto batch = decode_batch(keys);
      const auto filled = fill_grouped(4, 8, 32, true, batch);
      expect_complete(filled.schedule, batch);
      schedules.push_back(filled.schedule);
      places.push_back(filled.schedule.last_page_keys - filled.memory.data());
      EXPECT_EQ(schedules[0].grid, filled.schedule.grid);
      EXPECT_EQ(schedules[0].is_split, filled.schedule.is_split);
      EXPECT_EQ(schedules[0].tile_pairs, filled.schedule.tile_pairs);
      EXPECT_EQ(schedules[0].partial_rows, filled.schedule.partial_rows);
      EXPECT_EQ(places[0], places.back());
    }
  }
}

// Prompts and others share a batch: each is in one of the schedules.
TEST(PromptScheduleTest, CoversEveryTileOnce) {
  Random random(5);
  for (int trial = 0; trial < 40; ++trial) {
    auto batch = random_batch(random, between(random, 1, 20), 700, trial % 2 ? 0 : 3000);
    for (ScheduledSequence& sequence : batch) {
      sequence.is_prompt = sequence.num_rows >= PromptSchedule::kFewestRows;
    }
    for (const auto keys_are : {PromptSchedule::Keys::kPages, PromptSchedule::Keys::kRows}) {
      const bool is_paged = keys_are == PromptSchedule::Keys::kPages;
      PromptSchedule schedule;
      schedule.num_heads = between(random, 1, 40);
      schedule.blocks = 132;
      const int64_t pieces = PromptSchedule::count_pieces(schedule.num_heads, batch, keys_are);
      IntTable size(nullptr);
      PromptSchedule(schedule).place(pieces, size);
      std::vector<int> memory(size.used(), kUnwritten);
      IntTable table(memory.data());
      schedule.place(pieces, table);
      schedule.fill(batch, keys_are);
      ASSERT_EQ(schedule.block_begin[0], 0);
      ASSERT_EQ(schedule.block_begin[132], pieces);
      std::set<std::vector<int>> seen;
      int64_t total = 0;
      int64_t most = 0;
      int64_t largest = 0;
      for (int b = 0; b < 132; ++b) {
        int64_t load = 0;
        for (int p = schedule.block_begin[b]; p < schedule.block_begin[b + 1]; ++p) {
          const ScheduledSequence& sequence = batch[schedule.sequence[p]];
          EXPECT_TRUE(!is_paged || sequence.is_prompt);
          EXPECT_EQ(schedule.first_row[p], sequence.first_row);
          EXPECT_EQ(schedule.num_rows[p], sequence.num_rows);
          EXPECT_EQ(schedule.first_key[p], is_paged ? sequence.first_page : sequence.first_row);
          EXPECT_EQ(schedule.keys[p], is_paged ? sequence.keys : sequence.num_rows);
          EXPECT_LT(schedule.tile[p] * PromptSchedule::kTileRows, sequence.num_rows);
          EXPECT_TRUE(
              seen.insert({schedule.sequence[p], schedule.head[p], schedule.tile[p]}).second);
          const int before = is_paged ? sequence.keys - sequence.num_rows : 0;
          const int cost =
              before + PromptSchedule::kTileRows +
              std::min((schedule.tile[p] + 1) * PromptSchedule::kTileRows, sequence.num_rows);
          load += cost;
          largest = std::max<int64_t>(largest, cost);
        }
        total += load;
        most = std::max(most, load);
      }
      EXPECT_EQ(std::ssize(seen), pieces);
      EXPECT_LE(most, total / 132 + largest);
    }
  }
}

}  // namespace
}  // namespace wideep::kernels
