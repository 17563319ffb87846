#include "kernels/permute.h"

#include <gmock/gmock.h>

#include "kernels/kernels_testing.h"

namespace wideep::kernels {
namespace {

struct Permutation {
  Permutation(const std::vector<int32_t>& ids, int group_begin, int num_groups,
              int row_alignment = 1)
      : offsets(num_groups + 1, -7),
        rows(ids.size(), -7),
        pairs(max_permuted_rows(std::ssize(ids), num_groups, row_alignment), -7),
        group_of_row(pairs.size(), -7) {
    TestStream stream(1);
    make_permutation(stream, {ids, group_begin, num_groups, offsets.data(), rows.data(),
                              pairs.data(), row_alignment, group_of_row.data()});
  }

  std::vector<int> offsets;
  std::vector<int> rows;
  std::vector<int> pairs;
  std::vector<int> group_of_row;
};

TEST(MakePermutationTest, SortsByGroupAndKeepsTheOrder) {
  // Groups 4 to 6; two tokens, top_k 4.
  const Permutation p({6, 4, 9, 6, 5, -1, 4, 3}, 4, 3);
  EXPECT_THAT(p.offsets, testing::ElementsAre(0, 2, 3, 5));
  EXPECT_THAT(p.rows, testing::ElementsAre(3, 0, -1, 4, 2, -1, 1, -1));
  EXPECT_THAT(p.pairs, testing::ElementsAre(1, 6, 4, 0, 3, -1, -1, -1));
  EXPECT_THAT(p.group_of_row, testing::ElementsAre(0, 0, 1, 2, 2, -1, -1, -1));
}

TEST(MakePermutationTest, GroupsBeginAtMultiplesOfTheAlignment) {
  // Groups 4 to 6, of which 5 has no pair.
  const Permutation p({6, 4, 9, 6, -1, 4, 4, 3}, 4, 3, 4);
  EXPECT_THAT(p.offsets, testing::ElementsAre(0, 4, 4, 8));
  EXPECT_THAT(p.rows, testing::ElementsAre(4, 0, -1, 5, -1, 1, 2, -1));
  EXPECT_THAT(p.pairs,
              testing::ElementsAre(1, 5, 6, -1, 0, 3, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
  EXPECT_THAT(p.group_of_row,
              testing::ElementsAre(0, 0, 0, -1, 2, 2, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
}

TEST(MakePermutationTest, GroupsHaveRoomForTheSameNumberOfRows) {
  const std::vector<int32_t> ids = {6, 4, 9, 6, -1, 4, 4, 3};
  std::vector<int> offsets(4, -7);
  std::vector<int> rows(8, -7);
  std::vector<int> pairs(12, -7);
  std::vector<int> groups(12, -7);
  std::vector<int> counts(3, -7);
  TestStream stream(1);
  make_permutation(stream, {ids, 4, 3, offsets.data(), rows.data(), pairs.data(), 1, groups.data(),
                            4, counts.data()});
  EXPECT_THAT(offsets, testing::ElementsAre(0, 4, 8, 12));
  EXPECT_THAT(counts, testing::ElementsAre(3, 0, 2));
  EXPECT_THAT(rows, testing::ElementsAre(8, 0, -1, 9, -1, 1, 2, -1));
  EXPECT_THAT(pairs, testing::ElementsAre(1, 5, 6, -1, -1, -1, -1, -1, 0, 3, -1, -1));
  EXPECT_THAT(groups, testing::ElementsAre(0, 0, 0, -1, -1, -1, -1, -1, 2, 2, -1, -1));
}

TEST(MakePermutationTest, TheBoundIsReached) {
  // A pair in every group: nothing wastes more.
  EXPECT_EQ(max_permuted_rows(3, 3, 128), 3 * 128);
  EXPECT_EQ(Permutation({0, 1, 2}, 0, 3, 128).offsets[3], 3 * 128);
  EXPECT_EQ(max_permuted_rows(2, 3, 128), 2 * 128);
  EXPECT_EQ(max_permuted_rows(130, 1, 128), 2 * 128);
  EXPECT_EQ(max_permuted_rows(7, 3, 1), 7);
  EXPECT_EQ(max_permuted_rows(0, 3, 128), 0);
}

TEST(MakePermutationTest, NoPairsNoGroups) {
  EXPECT_THAT(Permutation({}, 0, 2).offsets, testing::ElementsAre(0, 0, 0));
  const Permutation none({1, 2}, 5, 0);
  EXPECT_THAT(none.offsets, testing::ElementsAre(0));
  EXPECT_THAT(none.rows, testing::ElementsAre(-1, -1));
}

TEST(MakePermutationTest, IsAStableSort) {
  Random random(1);
  for (int trial = 0; trial < 80; ++trial) {
    const int begin = between(random, 0, 5);
    const int groups = between(random, 0, 20);
    const int alignment = trial % 2 == 0 ? 1 : between(random, 2, 40);
    std::vector<int32_t> ids(between(random, 0, 300));
    for (int32_t& id : ids) id = between(random, -1, 25);
    const Permutation p(ids, begin, groups, alignment);
    std::vector<int> pairs;
    std::vector<int> group_of_row;
    std::vector<int> rows(ids.size(), -1);
    for (int g = 0; g < groups; ++g) {
      ASSERT_EQ(p.offsets[g], std::ssize(pairs));
      for (size_t pair = 0; pair < ids.size(); ++pair) {
        if (ids[pair] != begin + g) continue;
        rows[pair] = static_cast<int>(pairs.size());
        pairs.push_back(static_cast<int>(pair));
      }
      group_of_row.resize(pairs.size(), g);
      while (pairs.size() % alignment != 0) pairs.push_back(-1);
      group_of_row.resize(pairs.size(), -1);
    }
    ASSERT_EQ(p.offsets[groups], std::ssize(pairs));
    ASSERT_LE(pairs.size(), p.pairs.size());
    pairs.resize(p.pairs.size(), -1);
    group_of_row.resize(p.pairs.size(), -1);
    ASSERT_EQ(p.pairs, pairs);
    ASSERT_EQ(p.group_of_row, group_of_row);
    ASSERT_EQ(p.rows, rows);
  }
}

TEST(GatherRowsTest, CopiesAndScales) {
  Random random(2);
  TestStream stream(3);
  const TestMatrix x = random_matrix(random, 60, 219, 1);
  std::vector<int> pairs(100);
  for (int& pair : pairs) pair = between(random, 0, 179);
  const std::vector<float> scales = random_floats(random, 180);
  TestMatrix plain(103, 219, 2);
  TestMatrix scaled(103, 219, 2);
  gather_rows(stream, {x.view(), pairs, 3, nullptr, plain.view()});
  gather_rows(stream, {x.view(), pairs, 3, scales.data(), scaled.view()});
  for (int r = 0; r < 103; ++r) {
    for (int c = 0; c < 219; ++c) {
      if (r >= 100) {  // more room than rows
        ASSERT_TRUE(std::isnan(plain.at(r, c)) && std::isnan(scaled.at(r, c)));
        continue;
      }
      ASSERT_EQ(plain.at(r, c), x.at(pairs[r] / 3, c));
      ASSERT_EQ(scaled.at(r, c), x.at(pairs[r] / 3, c) * scales[pairs[r]]);
    }
  }
  expect_gaps_untouched(plain);
}

TEST(GatherRowsTest, LeavesRowsWithoutAPair) {
  TestStream stream(1);
  Random random(4);
  const TestMatrix x = random_matrix(random, 5, 7);
  TestMatrix y(4, 7);
  pick_rows(stream, x.view(), std::vector<int>{3, -1, 0}, y.view());
  for (int c = 0; c < 7; ++c) {
    EXPECT_EQ(y.at(0, c), x.at(3, c));
    EXPECT_TRUE(std::isnan(y.at(1, c)));
    EXPECT_EQ(y.at(2, c), x.at(0, c));
    EXPECT_TRUE(std::isnan(y.at(3, c)));
  }
}

TEST(CombineRowsTest, AddsInOrderOfK) {
  Random random(3);
  TestStream stream(3);
  constexpr int kTokens = 70;
  constexpr int kTopK = 6;
  const TestMatrix x = random_matrix(random, 90, 130, 3);
  std::vector<int> rows(kTokens * kTopK);
  for (int& row : rows) row = between(random, -1, 89);
  std::fill_n(rows.begin(), kTopK, -1);  // the first token's experts are elsewhere
  const std::vector<float> weights = random_floats(random, kTokens * kTopK);
  for (const float* factors : {weights.data(), static_cast<const float*>(nullptr)}) {
    TestMatrix y(kTokens, 130, 1);
    combine_rows(stream, {x.view(), rows, factors, kTopK, y.view()});
    for (int t = 0; t < kTokens; ++t) {
      for (int c = 0; c < 130; ++c) {
        float sum = 0;
        for (int pair = t * kTopK; pair < (t + 1) * kTopK; ++pair) {
          if (rows[pair] < 0) continue;
          sum += (factors != nullptr ? factors[pair] : 1) * x.at(rows[pair], c);
        }
        ASSERT_EQ(y.at(t, c), sum) << "token " << t;
      }
    }
    expect_gaps_untouched(y);
  }
}

TEST(CombineRowsTest, NoTokens) {
  TestStream stream(2);
  const TestMatrix x(0, 8);
  TestMatrix y(0, 8);
  combine_rows(stream, {x.view(), {}, nullptr, 2, y.view()});
  gather_rows(stream, {x.view(), {}, 2, nullptr, y.view()});
}

}  // namespace
}  // namespace wideep::kernels
