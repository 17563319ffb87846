#include "eplb/plan_quality.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace wideep::eplb {
namespace {

using ::testing::HasSubstr;

// Two layers on two ranks of two slots: expert 1 is on both ranks.
const Load kLoad = {3, 0, {3, 4}, {6, 10, 1, 9, 0, 0}};
const Plan kPlan = {3, 4, 0, {3, 4}, {0, 1, 1, 2, 0, 1, 1, 2}};

TEST(EvaluatePlan, ByHand) {
  const auto quality = evaluate_plan(kLoad, kPlan, {.ep_size = 2});
  ASSERT_TRUE(quality.is_ok());
  EXPECT_DOUBLE_EQ(quality->layers[0].even, 11 / 8.5);
  EXPECT_DOUBLE_EQ(quality->layers[0].optimal, 9 / 8.5);
  EXPECT_DOUBLE_EQ(quality->layers[1].even, 2);
  EXPECT_DOUBLE_EQ(quality->layers[1].optimal, 2);
  EXPECT_DOUBLE_EQ(quality->mean_even, (11 / 8.5 + 2) / 2);
  EXPECT_DOUBLE_EQ(quality->worst_even, 2);
  EXPECT_DOUBLE_EQ(quality->mean_optimal, (9 / 8.5 + 2) / 2);
  EXPECT_DOUBLE_EQ(quality->worst_optimal, 2);
  EXPECT_EQ(quality->layers[0].components, 1);
  EXPECT_EQ(quality->layers[0].duplicates, 0);
}

TEST(EvaluatePlan, SampledBatchesAreNoisierThanTheLoad) {
  QualityOptions options = {.ep_size = 2, .tokens_per_rank = 64, .top_k = 2, .seed = 3};
  const Load even = {3, 0, {3}, {100, 100, 100}};
  const auto sampled = evaluate_plan(even, kPlan, options);
  EXPECT_GT(sampled->mean_even, 1.0);
  EXPECT_LT(sampled->mean_optimal, sampled->mean_even);
  options.threads = 3;
  EXPECT_EQ(evaluate_plan(even, kPlan, options)->mean_even, sampled->mean_even);
}

TEST(EvaluatePlan, RefusesWhatDoesNotFit) {
  EXPECT_THAT(evaluate_plan(kLoad, kPlan, {.ep_size = 3}).status().message(),
              HasSubstr("4 is not divisible by ep_size 3"));
  Load other = kLoad;
  other.layers = {3, 9};
  EXPECT_THAT(evaluate_plan(other, kPlan, {.ep_size = 2}).status().message(),
              HasSubstr("no layer 9"));
  Plan wide = kPlan;
  wide.num_experts = 4;
  EXPECT_THAT(evaluate_plan(kLoad, wide, {.ep_size = 2}).status().message(),
              HasSubstr("for 4 experts, the load has 3"));
}

}  // namespace
}  // namespace wideep::eplb
