#include "eplb/evaluate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "eplb/eplb_testing.h"
#include "eplb/sampler.h"

namespace wideep::eplb {
namespace {

using ::testing::DoubleEq;
using ::testing::ElementsAre;

TEST(Evaluate, EvenSplitByHand) {
  const Shape shape{3, 4, 2};
  const std::vector<int> slots = {0, 1, 1, 2};
  EXPECT_THAT(count_replicas(shape, slots), ElementsAre(1, 2, 1));
  const auto ranks = even_rank_tokens(shape, slots, std::vector<int64_t>{6, 10, 1});
  EXPECT_THAT(ranks, ElementsAre(DoubleEq(11), DoubleEq(6)));
  EXPECT_DOUBLE_EQ(max_over_mean(ranks), 11 / 8.5);
}

TEST(Evaluate, NothingRoutedIsPerfect) {
  EXPECT_EQ(max_over_mean(std::vector<int64_t>{0, 0}), 1);
  EXPECT_EQ(max_over_mean(std::vector<double>{}), 1);
  EXPECT_EQ(even_lower_bound({2, 2, 2}, std::vector<int64_t>{0, 0}), 1);
}

TEST(Evaluate, CountsDuplicatesAndComponents) {
  const Shape shape{4, 8, 4};
  EXPECT_EQ(count_duplicates(shape, std::vector<int>{0, 0, 1, 2, 3, 3, 1, 1}), 3);
  // Ranks 0-1 share expert 1, ranks 2-3 share expert 3.
  EXPECT_EQ(count_components(shape, std::vector<int>{0, 1, 1, 2, 3, 3, 3, 3}), 2);
  EXPECT_EQ(count_components(shape, std::vector<int>{0, 1, 1, 2, 2, 3, 3, 0}), 1);
  EXPECT_EQ(count_components({4, 4, 4}, std::vector<int>{0, 1, 2, 3}), 4);
}

TEST(Evaluate, LowerBoundByHand) {
  // No spare slot: the rank of the hot expert holds one other, at best the one with 1 token.
  EXPECT_DOUBLE_EQ(even_lower_bound({4, 4, 2}, std::vector<int64_t>{10, 1, 2, 3}), 11 / 8.0);
  // Two spare slots make three copies of the hot expert; the mean is then the bound.
  EXPECT_DOUBLE_EQ(even_lower_bound({4, 6, 3}, std::vector<int64_t>{9, 1, 1, 1}), 1);
  // No more copies than ranks can help.
  EXPECT_DOUBLE_EQ(even_lower_bound({2, 8, 2}, std::vector<int64_t>{8, 0}), 1);
}

TEST(Evaluate, DefaultAssignmentIsTensorRtLlms) {
  EXPECT_THAT(default_assignment({4, 4, 2}), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(default_assignment({4, 6, 2}), ElementsAre(0, 1, 2, 2, 3, 0));
}

TEST(Evaluate, NoPlacementBeatsTheLowerBound) {
  Random random(5);
  for (int round = 0; round < 3000; ++round) {
    const Shape shape = random_shape(random, 5, 4);
    const auto tokens = random_tokens(random, shape.num_experts);
    const auto slots = random_slots(random, shape);
    EXPECT_GE(max_over_mean(even_rank_tokens(shape, slots, tokens)),
              even_lower_bound(shape, tokens) - 1e-9);
  }
}

TEST(Sampler, DrawsAddUpAndFollowTheLoad) {
  const std::vector<int64_t> tokens = {0, 100, 300, 600};
  std::vector<int64_t> sum(4, 0);
  for (uint64_t i = 0; i < 200; ++i) {
    Random random(7, {i});
    std::vector<int64_t> counts(4);
    sample_counts(random, tokens, 1000, counts);
    EXPECT_EQ(counts[0] + counts[1] + counts[2] + counts[3], 1000);
    for (int e = 0; e < 4; ++e) sum[e] += counts[e];
  }
  EXPECT_EQ(sum[0], 0);
  EXPECT_NEAR(static_cast<double>(sum[1]), 20'000, 800);
  EXPECT_NEAR(static_cast<double>(sum[3]), 120'000, 1400);
}

TEST(Sampler, NothingIsDrawnFromAnEmptyLoad) {
  Random random(1);
  std::vector<int64_t> counts = {5, 5};
  sample_counts(random, std::vector<int64_t>{0, 0}, 10, counts);
  EXPECT_THAT(counts, ElementsAre(0, 0));
}

}  // namespace
}  // namespace wideep::eplb
