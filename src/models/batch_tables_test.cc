#include "models/batch_tables.h"

#include <gtest/gtest.h>

#include <list>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/arena.h"
#include "base/thread_pool.h"

namespace wideep::models {
namespace {

constexpr int kMaxRows = 16;

class BatchTablesTest : public testing::Test {
 protected:
  // Two sequences: four rows from position 3 on, and one at position 9; pages of two tokens.
  Batch batch() {
    Batch batch;
    batch.token_ids = {10, 11, 12, 13, 20};
    batch.sequences.push_back(
        {.first_row = 0, .num_rows = 4, .first_position = 3, .pages = pages({7, 8, 9, 5})});
    batch.sequences.push_back(
        {.first_row = 4, .num_rows = 1, .first_position = 9, .pages = pages({1, 2, 3, 4, 6})});
    batch.logits_rows = {3, 4};
    return batch;
  }
  std::span<const int> pages(std::vector<int> pages) {
    pages_.push_back(std::move(pages));
    return pages_.back();
  }
  // Of all rows.
  ForwardPass pass_of(int num_rows) {
    ForwardPass pass;
    pass.stream = &stream_;
    pass.arena = &arena_;
    pass.num_rows = num_rows;
    pass.own_end = num_rows;
    return pass;
  }

  std::list<std::vector<int>> pages_;  // of the batches
  ThreadPool pool_{1};
  Stream stream_{pool_};
  std::vector<std::byte> memory_ =
      std::vector<std::byte>(static_cast<size_t>(BatchTables::scratch_bytes(kMaxRows)));
  Arena arena_{memory_};
  std::unique_ptr<BatchTables> tables_ = BatchTables::create(stream_, kMaxRows).value();
};

template <typename T>
std::vector<T> values_of(std::span<const T> values) {
  return {values.begin(), values.end()};
}

TEST_F(BatchTablesTest, RowsHavePositionsAndPlacesInTheCache) {
  ForwardPass pass = pass_of(5);
  const Batch one = batch();
  tables_->place(one, {.page_size = 2}, false, pass);
  EXPECT_EQ(values_of(pass.token_ids), one.token_ids);
  EXPECT_EQ(values_of(pass.positions), (std::vector{3, 4, 5, 6, 9}));
  EXPECT_EQ(values_of(pass.slots), (std::vector<int64_t>{17, 18, 19, 10, 13}));
  EXPECT_EQ(values_of(pass.logits_rows), (std::vector{3, 4}));
  EXPECT_EQ(pass.num_tokens, nullptr);
  ASSERT_EQ(pass.sequences.size(), 2);
  EXPECT_EQ(pass.sequences[1].first_row, 4);
  EXPECT_EQ(pass.sequences[1].num_rows, 1);
}

// Each token's place is on one of the ranks of a cp group, whose pages are every second block's.
TEST_F(BatchTablesTest, BlocksGoRoundTheRanksOfACpGroup) {
  const Batch one = batch();
  std::vector<int64_t> places[2];
  for (const int rank : {0, 1}) {
    Arena arena(memory_);
    ForwardPass pass = pass_of(5);
    pass.arena = &arena;
    tables_->place(one, {.page_size = 2, .cp = 2, .cp_rank = rank}, false, pass);
    places[rank] = values_of(pass.slots);
  }
  EXPECT_EQ(places[0], (std::vector<int64_t>{-1, 16, 17, -1, 7}));
  EXPECT_EQ(places[1], (std::vector<int64_t>{15, -1, -1, 16, -1}));
}

// What fills a graph's rows up goes nowhere, and has logits that nobody reads.
TEST_F(BatchTablesTest, PaddingGoesNowhere) {
  Batch decode;
  decode.token_ids = {10, 20};
  decode.sequences.push_back(
      {.first_row = 0, .num_rows = 1, .first_position = 0, .pages = pages({3})});
  decode.sequences.push_back(
      {.first_row = 1, .num_rows = 1, .first_position = 1, .pages = pages({4})});
  decode.logits_rows = {0, 1};
  ForwardPass pass = pass_of(4);
  tables_->place(decode, {.page_size = 2}, true, pass);
  EXPECT_EQ(values_of(pass.token_ids), (std::vector{10, 20, 0, 0}));
  EXPECT_EQ(values_of(pass.slots), (std::vector<int64_t>{6, 9, -1, -1}));
  EXPECT_EQ(values_of(pass.logits_rows), (std::vector{0, 1, 2, 3}));
  ASSERT_NE(pass.num_tokens, nullptr);
  EXPECT_EQ(*pass.num_tokens, 2);
}

// A rank of a cp group has the logits of its own rows, counted from its first one.
TEST_F(BatchTablesTest, LogitsAreOfTheOwnRows) {
  ForwardPass pass = pass_of(5);
  pass.own_begin = 3;
  tables_->place(batch(), {.page_size = 2}, false, pass);
  EXPECT_EQ(values_of(pass.logits_rows), (std::vector{0, 1}));
  Arena arena(memory_);
  pass = pass_of(5);
  pass.arena = &arena;
  pass.own_end = 4;
  tables_->place(batch(), {.page_size = 2}, false, pass);
  EXPECT_EQ(values_of(pass.logits_rows), (std::vector{3}));
}

}  // namespace
}  // namespace wideep::models
