#include "eplb/baseline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "eplb/eplb_testing.h"
#include "eplb/evaluate.h"

namespace wideep::eplb {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

TEST(TensorRtLlm, ReplicasByHand) {
  // 90 alone is the hottest: 45 each; then 50 beats 45: 25 each.
  EXPECT_THAT(tensorrt_llm_replicas({4, 6, 2}, std::vector<int64_t>{90, 50, 20, 10}),
              ElementsAre(2, 2, 1, 1));
  // Ties go to the larger expert.
  EXPECT_THAT(tensorrt_llm_replicas({3, 4, 2}, std::vector<int64_t>{5, 5, 5}),
              ElementsAre(1, 1, 2));
  // Nothing routed: dealt evenly, the first experts get the rest.
  EXPECT_THAT(tensorrt_llm_replicas({3, 8, 2}, std::vector<int64_t>{0, 0, 0}),
              ElementsAre(3, 3, 2));
}

TEST(TensorRtLlm, PlanByHand) {
  // Copies by size: 45 45 25 25 20 10 of experts 0 0 1 1 2 3; lightest rank first, lower rank on
  // ties: rank 0: 45, rank 1: 45, rank 0: 25, rank 1: 25, rank 0: 20 (full), rank 1: 10.
  EXPECT_THAT(tensorrt_llm_plan({4, 6, 2}, std::vector<int64_t>{90, 50, 20, 10}),
              ElementsAre(0, 1, 2, 0, 1, 3));
}

TEST(TensorRtLlm, MayPutAnExpertOnARankTwice) {
  // 30 30 30 10 on two ranks: 0 | 0 then rank 0 again (tie), and 1 fills rank 1.
  const std::vector<int> slots = tensorrt_llm_plan({2, 4, 2}, std::vector<int64_t>{90, 10});
  EXPECT_THAT(slots, ElementsAre(0, 0, 0, 1));
  EXPECT_EQ(count_duplicates({2, 4, 2}, slots), 1);
}

TEST(DeepSeek, PublishedExample) {
  // The example of DeepSeek's README: 2 layers, 12 experts, 16 slots, 4 groups, 2 nodes, 8 GPUs.
  const Shape shape{12, 16, 8};
  const DeepSeekOptions options{4, 2};
  const std::vector<int64_t> first = {90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86};
  const std::vector<int64_t> second = {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27};
  EXPECT_THAT(deepseek_plan(shape, first, options),
              ElementsAreArray({5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1}));
  EXPECT_THAT(deepseek_plan(shape, second, options),
              ElementsAreArray({7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}));
}

TEST(DeepSeek, GlobalWhereNodesDoNotDivideGroups) {
  const std::vector<int64_t> tokens = {90, 50, 20, 10};
  EXPECT_EQ(deepseek_plan({4, 6, 2}, tokens, {1, 2}), deepseek_plan({4, 6, 2}, tokens, {1, 1}));
  // Copies in slot order: experts 0 1 2 3, then a copy of 0, then one of 1; packed from the largest
  // on.
  EXPECT_THAT(deepseek_plan({4, 6, 2}, tokens, {1, 1}), ElementsAre(0, 1, 2, 0, 1, 3));
}

TEST(Cooccurrence, FillsARankWithExpertsThatGoTogether) {
  // Equal loads; 0-2 and 1-3 are always chosen together.
  const Shape shape{4, 4, 2};
  const std::vector<int64_t> tokens = {10, 10, 10, 10};
  std::vector<int64_t> together(16, 0);
  together[0 * 4 + 2] = together[2 * 4 + 0] = 10;
  together[1 * 4 + 3] = together[3 * 4 + 1] = 10;
  EXPECT_THAT(cooccurrence_plan(shape, tokens, together, 1.0), ElementsAre(0, 2, 1, 3));
  // alpha 0: nothing is placed by affinity, everything by load.
  EXPECT_THAT(cooccurrence_plan(shape, tokens, together, 0.0), ElementsAre(0, 2, 1, 3));
}

TEST(Baselines, EveryExpertIsPlaced) {
  Random random(11);
  for (int round = 0; round < 300; ++round) {
    const Shape shape = random_shape(random, 20, 9);
    const auto tokens = random_tokens(random, shape.num_experts);
    const std::vector<int64_t> together(int64_t{shape.num_experts} * shape.num_experts, 1);
    for (const auto& slots : {tensorrt_llm_plan(shape, tokens), deepseek_plan(shape, tokens, {}),
                              cooccurrence_plan(shape, tokens, together, 0.8)}) {
      ASSERT_EQ(static_cast<int>(slots.size()), shape.num_slots);
      for (const int replicas : count_replicas(shape, slots)) EXPECT_GE(replicas, 1);
    }
  }
}

}  // namespace
}  // namespace wideep::eplb
