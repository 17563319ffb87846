#include "eplb/projection.h"

#include <gmock/gmock.h>

#include <numeric>

#include "eplb/eplb_testing.h"
#include "eplb/evaluate.h"
#include "eplb/split.h"

namespace wideep::eplb {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Two iterations of layers 3 and 4, four experts, recorded on two ranks.
Statistics small_statistics() {
  return {.num_experts = 4,
          .top_k = 2,
          .num_ranks = 2,
          .iter_start = 100,
          .iter_stop = 102,
          .layers = {3, 4},
          .tokens = {12, 4, 0, 0, 1, 2, 3, 4,  //
                     6, 2, 8, 0, 4, 3, 2, 1}};
}

// Ranks {0 0 1} and {0 2 3} in layer 3; {0 1 2} and {3 2 1} in layer 4; layer 9 is not recorded.
Plan small_plan() {
  return {.num_experts = 4,
          .num_slots = 6,
          .layers = {3, 4, 9},
          .slots = {0, 0, 1, 0, 2, 3, 0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 0, 1}};
}

std::vector<double> row(const PlaceLoads& loads, int iteration, int layer) {
  const auto values = loads.row(iteration, layer);
  return {values.begin(), values.end()};
}

TEST(RecordedLoads, AddsContiguousBlocks) {
  const PlaceLoads loads = recorded_loads(small_statistics(), 2, Place::kRank).value();
  EXPECT_EQ(loads.num_ranks, 2);
  EXPECT_EQ(loads.num_places, 2);
  EXPECT_EQ(loads.num_iterations, 2);
  EXPECT_THAT(loads.layers, ElementsAre(3, 4));
  EXPECT_THAT(row(loads, 0, 0), ElementsAre(16, 0));
  EXPECT_THAT(row(loads, 0, 1), ElementsAre(3, 7));
  EXPECT_THAT(row(loads, 1, 0), ElementsAre(8, 8));
  EXPECT_THAT(row(loads, 1, 1), ElementsAre(7, 3));
}

TEST(RecordedLoads, KeepsExpertsApart) {
  const PlaceLoads loads = recorded_loads(small_statistics(), 2, Place::kSlot).value();
  EXPECT_EQ(loads.num_places, 4);
  EXPECT_THAT(row(loads, 1, 0), ElementsAre(6, 2, 8, 0));
}

TEST(RecordedLoads, RefusesRanksThatDoNotDivide) {
  const auto loads = recorded_loads(small_statistics(), 3, Place::kRank);
  ASSERT_FALSE(loads.is_ok());
  EXPECT_EQ(loads.status().code(), StatusCode::kInvalidInput);
  EXPECT_THAT(loads.status().message(), HasSubstr("3 ranks cannot share 4 experts"));
  EXPECT_FALSE(recorded_loads(small_statistics(), 0, Place::kRank).is_ok());
}

TEST(ProjectedLoads, SharesEvenlyByHand) {
  const PlaceLoads loads =
      projected_loads(small_statistics(), small_plan(), 2, Place::kRank, ReplicaSplit::kEven)
          .value();
  EXPECT_THAT(row(loads, 0, 0), ElementsAre(4 + 4 + 4, 4 + 0 + 0));
  EXPECT_THAT(row(loads, 1, 0), ElementsAre(2 + 2 + 2, 2 + 8 + 0));
  EXPECT_THAT(row(loads, 0, 1), ElementsAre(1 + 1 + 1.5, 4 + 1.5 + 1));
  EXPECT_THAT(row(loads, 1, 1), ElementsAre(4 + 1.5 + 1, 1 + 1 + 1.5));
}

TEST(ProjectedLoads, KeepsSlotsApart) {
  const PlaceLoads loads =
      projected_loads(small_statistics(), small_plan(), 2, Place::kSlot, ReplicaSplit::kEven)
          .value();
  EXPECT_EQ(loads.num_places, 6);
  EXPECT_THAT(row(loads, 0, 0), ElementsAre(4, 4, 4, 4, 0, 0));
}

TEST(ProjectedLoads, SplitsEachIterationAsWellAsThePlanAllows) {
  const PlaceLoads loads =
      projected_loads(small_statistics(), small_plan(), 2, Place::kRank, ReplicaSplit::kBest)
          .value();
  EXPECT_THAT(row(loads, 0, 0), ElementsAre(8, 8));
  EXPECT_THAT(row(loads, 1, 0), ElementsAre(8, 8));
  EXPECT_THAT(row(loads, 0, 1), ElementsAre(5, 5));
  EXPECT_THAT(row(loads, 1, 1), ElementsAre(5, 5));
}

TEST(ProjectedLoads, ThePlainPlacementIsWhatWasRecorded) {
  Plan plan{.num_experts = 4, .num_slots = 4, .layers = {3, 4}, .slots = {0, 1, 2, 3, 0, 1, 2, 3}};
  const Statistics statistics = small_statistics();
  for (const ReplicaSplit split : {ReplicaSplit::kEven, ReplicaSplit::kBest}) {
    EXPECT_EQ(projected_loads(statistics, plan, 2, Place::kRank, split)->tokens,
              recorded_loads(statistics, 2, Place::kRank)->tokens);
  }
}

TEST(ProjectedLoads, RefusesWhatDoesNotFit) {
  const auto error = [](const Statistics& statistics, const Plan& plan, int num_ranks) {
    const auto loads =
        projected_loads(statistics, plan, num_ranks, Place::kRank, ReplicaSplit::kEven);
    EXPECT_FALSE(loads.is_ok());
    EXPECT_EQ(loads.status().code(), StatusCode::kInvalidInput);
    return loads.status().message();
  };
  EXPECT_THAT(error(small_statistics(), small_plan(), 4),
              HasSubstr("num_slots 6 of the plan is not divisible by ep_size 4"));
  Plan lacks_layer = small_plan();
  lacks_layer.layers = {3, 5, 9};
  EXPECT_THAT(error(small_statistics(), lacks_layer, 2), HasSubstr("layer 4 is in the counts"));
  Statistics of_slots = small_statistics();
  of_slots.num_experts = 6;
  of_slots.tokens.assign(24, 1);
  EXPECT_THAT(error(of_slots, small_plan(), 2), HasSubstr("with a balancer active"));
  Statistics of_other_model = small_statistics();
  of_other_model.num_experts = 8;
  of_other_model.tokens.assign(32, 1);
  EXPECT_THAT(error(of_other_model, small_plan(), 2), HasSubstr("the same model"));
}

TEST(ProjectedLoads, AgreeWithTheEvaluatorOnRandomPlans) {
  Random random(21);
  for (int round = 0; round < 60; ++round) {
    const Shape shape = random_shape(random, 8, 6);
    const Plan plan{.num_experts = shape.num_experts,
                    .num_slots = shape.num_slots,
                    .layers = {round},
                    .slots = random_slots(random, shape)};
    const Statistics statistics{.num_experts = shape.num_experts,
                                .num_ranks = 1,
                                .iter_stop = 1,
                                .layers = {round},
                                .tokens = random_tokens(random, shape.num_experts)};
    const auto project = [&](Place place, ReplicaSplit split) {
      return projected_loads(statistics, plan, shape.num_ranks, place, split).value().tokens;
    };
    const std::vector<double> even = project(Place::kRank, ReplicaSplit::kEven);
    EXPECT_NEAR(max_over_mean(even),
                max_over_mean(even_rank_tokens(shape, plan.slots, statistics.tokens)), 1e-9);
    const std::vector<double> best = project(Place::kRank, ReplicaSplit::kBest);
    EXPECT_EQ(*std::max_element(best.begin(), best.end()),
              Splitter(shape, plan.slots).best_max(statistics.tokens));
    const auto total =
        std::accumulate(statistics.tokens.begin(), statistics.tokens.end(), int64_t{0});
    for (const Place place : {Place::kRank, Place::kSlot}) {
      for (const ReplicaSplit split : {ReplicaSplit::kEven, ReplicaSplit::kBest}) {
        const std::vector<double> tokens = project(place, split);
        EXPECT_NEAR(std::accumulate(tokens.begin(), tokens.end(), 0.0), total, 1e-6);
      }
    }
  }
}

TEST(PlanPlacement, TakesTheLayersThatAreAskedFor) {
  const std::vector<int> layers = {4, 9};
  const Placement placement = plan_placement(small_plan(), 4, layers, 2).value();
  EXPECT_EQ(placement.shape.num_ranks, 2);
  EXPECT_THAT(placement.row(0), ElementsAre(0, 1, 2, 3, 2, 1));
  EXPECT_THAT(placement.row(1), ElementsAre(0, 1, 2, 3, 0, 1));
  EXPECT_FALSE(plan_placement(small_plan(), 4, std::vector<int>{5}, 2).is_ok());
  EXPECT_FALSE(plan_placement(small_plan(), 4, std::vector<int>{10}, 2).is_ok());
  EXPECT_FALSE(
      plan_placement({.num_experts = 4, .num_slots = 4, .layers = {}, .slots = {}}, 4, layers, 2)
          .is_ok());
}

TEST(ContiguousPlacement, HoldsEveryExpertOnce) {
  const Placement placement = contiguous_placement(4, std::vector<int>{1, 2}, 2).value();
  EXPECT_EQ(placement.shape.num_slots, 4);
  EXPECT_THAT(placement.row(1), ElementsAre(0, 1, 2, 3));
}

}  // namespace
}  // namespace wideep::eplb
