#include "eplb/report.h"

#include <gmock/gmock.h>

#include <cmath>

#include "eplb/eplb_testing.h"

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

TEST(LoadTable, IsComputedAtEachIterationThenAveraged) {
  const LoadReport report = make_load_report(small_statistics(), {}).value();
  const LoadTable& table = report.main().table;
  ASSERT_EQ(table.rows.size(), 2u);
  // Layer 3: ranks 16, 0 then 8, 8. std with ddof 1: 8 sqrt 2 and 0. Ratio 1 and 0. The ratio of
  // the summed loads (24, 8) would be 0.5 as well, but their std 8 sqrt 2 is another number.
  EXPECT_EQ(table.rows[0].layer, 3);
  EXPECT_DOUBLE_EQ(table.rows[0].mean, 8);
  EXPECT_DOUBLE_EQ(table.rows[0].std, 4 * std::sqrt(2.0));
  EXPECT_DOUBLE_EQ(table.rows[0].imbalance_ratio, 0.5);
  // Layer 4: ranks 3, 7 then 7, 3: the sums are equal, yet each iteration is uneven.
  EXPECT_EQ(table.rows[1].layer, 4);
  EXPECT_DOUBLE_EQ(table.rows[1].mean, 5);
  EXPECT_DOUBLE_EQ(table.rows[1].std, 2 * std::sqrt(2.0));
  EXPECT_DOUBLE_EQ(table.rows[1].imbalance_ratio, 0.4);
  // Unweighted over layers, though layer 3 has more tokens.
  EXPECT_DOUBLE_EQ(table.average.mean, 6.5);
  EXPECT_DOUBLE_EQ(table.average.std, 3 * std::sqrt(2.0));
  EXPECT_DOUBLE_EQ(table.average.imbalance_ratio, 0.45);
  EXPECT_EQ(table.average.layer, -1);
}

TEST(LoadTable, PerExpertHasOnePlaceAnExpert) {
  const LoadReport report = make_load_report(small_statistics(), {.per_expert = true}).value();
  const LoadTable& table = report.main().table;
  // 12 4 0 0: mean 4, squares 64 + 0 + 16 + 16 = 96 over 3. 6 2 8 0: mean 4, 4 + 4 + 16 + 16 = 40.
  EXPECT_DOUBLE_EQ(table.rows[0].mean, 4);
  EXPECT_DOUBLE_EQ(table.rows[0].std, (std::sqrt(32.0) + std::sqrt(40.0 / 3)) / 2);
  EXPECT_DOUBLE_EQ(table.rows[0].imbalance_ratio, (2.0 + 1.0) / 2);
  EXPECT_EQ(report.main().num_places, 4);
  EXPECT_EQ(report.main().num_ranks, 2);
}

TEST(LoadTable, UniformLoadsAreZeroApart) {
  Random random(8);
  for (int round = 0; round < 20; ++round) {
    const int num_ranks = 1 + static_cast<int>(random.below(40));
    const PlaceLoads loads{.num_ranks = num_ranks,
                           .num_places = num_ranks,
                           .num_iterations = 2,
                           .layers = {0},
                           .tokens = std::vector<double>(2 * num_ranks, random.below(3000))};
    const LoadRow row = load_table(loads).rows[0];
    EXPECT_EQ(row.std, 0);
    EXPECT_EQ(row.imbalance_ratio, 0);
  }
}

TEST(LoadTable, OneHotRankHasAClosedForm) {
  for (const int num_ranks : {2, 7, 32, 1024}) {
    PlaceLoads loads{.num_ranks = num_ranks,
                     .num_places = num_ranks,
                     .num_iterations = 1,
                     .layers = {0},
                     .tokens = std::vector<double>(num_ranks, 0.0)};
    loads.tokens[num_ranks / 2] = 1000.0 * num_ranks;
    const LoadRow row = load_table(loads).rows[0];
    EXPECT_DOUBLE_EQ(row.mean, 1000);
    EXPECT_DOUBLE_EQ(row.imbalance_ratio, num_ranks - 1);
    EXPECT_NEAR(row.std, 1000 * std::sqrt(num_ranks), 1e-6);
  }
}

TEST(LoadTable, OneRankAndNoTokensAreNotUneven) {
  const PlaceLoads one{
      .num_ranks = 1, .num_places = 1, .num_iterations = 1, .layers = {5}, .tokens = {77}};
  EXPECT_EQ(load_table(one).rows[0].std, 0);
  EXPECT_EQ(load_table(one).rows[0].imbalance_ratio, 0);
  const PlaceLoads idle{
      .num_ranks = 2, .num_places = 2, .num_iterations = 1, .layers = {5}, .tokens = {0, 0}};
  EXPECT_EQ(load_table(idle).rows[0].mean, 0);
  EXPECT_EQ(load_table(idle).average.imbalance_ratio, 0);
}

TEST(AverageTokens, AveragesEachPlace) {
  const PlaceLoads loads = recorded_loads(small_statistics(), 2, Place::kRank).value();
  EXPECT_THAT(average_tokens(loads), ElementsAre(12, 4, 5, 5));
}

TEST(MakeLoadReport, SaysWhatItIsMadeOf) {
  const LoadReport report = make_load_report(small_statistics(), {}).value();
  EXPECT_EQ(report.num_experts, 4);
  EXPECT_EQ(report.top_k, 2);
  EXPECT_EQ(report.iter_start, 100);
  EXPECT_EQ(report.iter_stop, 102);
  EXPECT_THAT(report.layers, ElementsAre(3, 4));
  EXPECT_FALSE(report.projected || report.best_split);
  EXPECT_EQ(report.recorded->num_ranks, 2);
}

TEST(MakeLoadReport, EpSizeIsAnotherViewOfTheCounts) {
  const LoadReport report = make_load_report(small_statistics(), {.ep_size = 4}).value();
  EXPECT_EQ(report.main().num_ranks, 4);
  EXPECT_DOUBLE_EQ(report.main().table.rows[0].mean, 4);
  const auto refused = make_load_report(small_statistics(), {.ep_size = 3});
  ASSERT_FALSE(refused.is_ok());
  EXPECT_THAT(refused.status().message(), HasSubstr("ep_size"));
}

TEST(MakeLoadReport, ProjectsAPlanBesideWhatWasRecorded) {
  const Plan plan{.num_experts = 4,
                  .num_slots = 6,
                  .layers = {3, 4},
                  .slots = {0, 0, 1, 0, 2, 3, 0, 1, 2, 3, 2, 1}};
  const LoadReport report = make_load_report(small_statistics(), {.plan = &plan}).value();
  EXPECT_DOUBLE_EQ(report.recorded->table.rows[0].imbalance_ratio, 0.5);
  // Layer 3: ranks 12, 4 then 6, 10.
  EXPECT_DOUBLE_EQ(report.projected->table.rows[0].imbalance_ratio, (0.5 + 0.25) / 2);
  EXPECT_DOUBLE_EQ(report.best_split->table.average.imbalance_ratio, 0);
  EXPECT_EQ(report.projected->num_slots, 6);
  EXPECT_EQ(&report.main(), &*report.projected);
  // The plan's EP size leaves the recorded view alone.
  const LoadReport wider =
      make_load_report(small_statistics(), {.ep_size = 3, .plan = &plan}).value();
  EXPECT_EQ(wider.projected->num_ranks, 3);
  EXPECT_EQ(wider.recorded->num_ranks, 2);
}

TEST(MakeLoadReport, ProjectsWhereTheRecordedRanksDoNotDivide) {
  Statistics statistics = small_statistics();
  statistics.num_ranks = 3;
  EXPECT_FALSE(make_load_report(statistics, {}).is_ok());
  const Plan plan{.num_experts = 4,
                  .num_slots = 6,
                  .layers = {3, 4},
                  .slots = {0, 0, 1, 0, 2, 3, 0, 1, 2, 3, 2, 1}};
  const LoadReport report = make_load_report(statistics, {.plan = &plan}).value();
  EXPECT_FALSE(report.recorded);
  EXPECT_EQ(report.projected->num_ranks, 3);
}

TEST(MakeLoadReport, TheBestSplitIsNeverWorseThanTheEvenOne) {
  Random random(4);
  for (int round = 0; round < 30; ++round) {
    const Shape shape = random_shape(random, 8, 6);
    const Plan plan{.num_experts = shape.num_experts,
                    .num_slots = shape.num_slots,
                    .layers = {1},
                    .slots = random_slots(random, shape)};
    const Statistics statistics{.num_experts = shape.num_experts,
                                .num_ranks = 1,
                                .iter_stop = 1,
                                .layers = {1},
                                .tokens = random_tokens(random, shape.num_experts)};
    const LoadReport report =
        make_load_report(statistics, {.ep_size = shape.num_ranks, .plan = &plan}).value();
    const LoadRow& even = report.projected->table.average;
    const LoadRow& best = report.best_split->table.average;
    EXPECT_NEAR(best.mean, even.mean, 1e-9 * even.mean);
    // Tokens are whole, so the best split may be up to one token above a fractional even one.
    EXPECT_LE(best.mean * best.imbalance_ratio, even.mean * even.imbalance_ratio + 1);
  }
}

}  // namespace
}  // namespace wideep::eplb
