#include "kernels/permute.h"

#include <gmock/gmock.h>

#include "kernels/kernels_testing.h"

namespace wideep::kernels {
namespace {

struct Permutation {
  Permutation(const std::vector<int32_t>& ids, int group_begin, int num_groups)
      : offsets(num_groups + 1, -7), rows(ids.size(), -7), pairs(ids.size(), -7) {
    TestStream stream(1);
    make_permutation(stream,
                     {ids, group_begin, num_groups, offsets.data(), rows.data(), pairs.data()});
  }

  std::vector<int> offsets;
  std::vector<int> rows;
  std::vector<int> pairs;
};

TEST(MakePermutationTest, SortsByGroupAndKeepsTheOrder) {
  // Groups 4 to 6; two tokens, top_k 4.
  const Permutation p({6, 4, 9, 6, 5, -1, 4, 3}, 4, 3);
  EXPECT_THAT(p.offsets, testing::ElementsAre(0, 2, 3, 5));
  EXPECT_THAT(p.rows, testing::ElementsAre(3, 0, -1, 4, 2, -1, 1, -1));
  EXPECT_THAT(std::vector<int>(p.pairs.begin(), p.pairs.begin() + 5),
              testing::ElementsAre(1, 6, 4, 0, 3));
}

TEST(MakePermutationTest, NoPairsNoGroups) {
  EXPECT_THAT(Permutation({}, 0, 2).offsets, testing::ElementsAre(0, 0, 0));
  const Permutation none({1, 2}, 5, 0);
  EXPECT_THAT(none.offsets, testing::ElementsAre(0));
  EXPECT_THAT(none.rows, testing::ElementsAre(-1, -1));
}

TEST(MakePermutationTest, IsAStableSort) {
  Random random(1);
  for (int trial = 0; trial < 50; ++trial) {
    const int begin = between(random, 0, 5);
    const int groups = between(random, 0, 20);
    std::vector<int32_t> ids(between(random, 0, 300));
    for (int32_t& id : ids) id = between(random, -1, 25);
    const Permutation p(ids, begin, groups);
    std::vector<int> expected;
    for (int g = 0; g < groups; ++g) {
      ASSERT_EQ(p.offsets[g], static_cast<int>(expected.size()));
      for (size_t pair = 0; pair < ids.size(); ++pair) {
        if (ids[pair] == begin + g) expected.push_back(static_cast<int>(pair));
      }
    }
    ASSERT_EQ(p.offsets[groups], static_cast<int>(expected.size()));
    ASSERT_EQ(std::vector<int>(p.pairs.begin(), p.pairs.begin() + p.offsets[groups]), expected);
    std::vector<int> rows(ids.size(), -1);
    for (size_t row = 0; row < expected.size(); ++row) rows[expected[row]] = static_cast<int>(row);
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
