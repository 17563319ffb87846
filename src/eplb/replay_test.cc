#include "eplb/replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "eplb/eplb_testing.h"
#include "eplb/evaluate.h"

namespace wideep::eplb {
namespace {

using ::testing::DoubleNear;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(SummaryTest, NearestRank) {
  std::vector<double> values(200);
  std::iota(values.rbegin(), values.rend(), 1);  // 200 .. 1
  const Summary summary = summarize(values);
  EXPECT_DOUBLE_EQ(summary.mean, 100.5);
  EXPECT_EQ(summary.p99, 198);
  EXPECT_EQ(summary.max, 200);
  EXPECT_EQ(summarize(std::vector<double>{3}).p99, 3);
  EXPECT_EQ(summarize({}).max, 0);
}

TEST(MeanSendRanksTest, ByHand) {
  // Expert 0 on ranks 0 and 1 (shares 3/4 and 1/4), expert 1 on rank 0, expert 2 on rank 2.
  const Shape shape{.num_experts = 3, .num_slots = 6, .num_ranks = 3};
  const std::vector<int> slots = {0, 1, 0, 2, 2, 2};
  const ReplicaTable table = make_replica_table(shape, slots);
  const std::vector<int64_t> tokens = {3, 5, 1, 0, 2, 2};
  // {0, 1}: rank 0 surely, rank 1 with 1/4. {2}: rank 2 by two slots of a half each, which counts
  // as 3/4 as in TensorRT-LLM's tool. {} is no token.
  const std::vector<int> experts = {0, 1, 2, -1, -1, -1};
  EXPECT_DOUBLE_EQ(mean_send_ranks(shape, table, tokens, experts, 2), (1.25 + 0.75) / 2);
  EXPECT_EQ(mean_send_ranks(shape, table, tokens, {}, 2), 0);
}

// Recorded counts, one row an iteration, of a single layer.
BatchSource recorded(std::vector<int64_t> rows, int num_experts, int num_ranks, int top_k = 1) {
  const int iterations = static_cast<int>(rows.size()) / num_experts;
  Statistics statistics{.num_experts = num_experts,
                        .top_k = top_k,
                        .num_ranks = num_ranks,
                        .iter_start = 0,
                        .iter_stop = iterations,
                        .layers = {5},
                        .tokens = std::move(rows)};
  return BatchSource::from_statistics(std::move(statistics), {.num_ranks = num_ranks}).value();
}

Load random_load(Random& random, int num_layers, int num_experts) {
  Load load{.num_experts = num_experts, .top_k = 4, .layers = {}, .tokens = {}};
  for (int l = 0; l < num_layers; ++l) {
    load.layers.push_back(l);
    for (int e = 0; e < num_experts; ++e) {
      load.tokens.push_back(10 + static_cast<int64_t>(random.below(400)));
    }
  }
  return load;
}

Plan plan_of(const Load& load, int num_slots, int num_ranks) {
  Plan plan{
      .num_experts = load.num_experts, .num_slots = num_slots, .layers = load.layers, .slots = {}};
  const auto row = default_assignment({load.num_experts, num_slots, num_ranks});
  for (int l = 0; l < load.num_layers(); ++l) {
    plan.slots.insert(plan.slots.end(), row.begin(), row.end());
  }
  return plan;
}

ReplayOptions options_of(int iterations, ReplicaChoice choice) {
  ReplayOptions options;
  options.num_iterations = iterations;
  options.replica_choice = choice;
  options.profile = read_hardware_profile("h200").value();
  options.balancer.replica_choice = choice;
  options.balancer.plan.max_transfers = 4;
  return options;
}

TEST(ReplayTest, UniformCountsAreBalanced) {
  const auto source = recorded(std::vector<int64_t>(8, 60), 8, 4);
  const Plan plan{
      .num_experts = 8, .num_slots = 8, .layers = {5}, .slots = {0, 1, 2, 3, 4, 5, 6, 7}};
  for (const auto choice :
       {ReplicaChoice::kRoundRobin, ReplicaChoice::kQuota, ReplicaChoice::kPerBatch}) {
    const auto result = replay({{&source, 0}}, plan, 4, options_of(3, choice)).value();
    EXPECT_THAT(result.plan.imbalance, Each(0));
    EXPECT_THAT(result.none.imbalance, Each(0));
    EXPECT_THAT(result.plan.send_ranks, Each(1));  // top-1, one slot an expert
  }
}

TEST(ReplayTest, ImbalanceByHand) {
  // Two iterations on 2 ranks; the plan gives the hot expert 0 a replica on each rank.
  const auto source = recorded({80, 10, 10, 0, 10, 10, 60, 20}, 4, 2);
  const Plan plan{.num_experts = 4, .num_slots = 6, .layers = {5}, .slots = {0, 1, 2, 0, 3, 2}};
  const auto result =
      replay({{&source, 0}}, plan, 2, options_of(3, ReplicaChoice::kPerBatch)).value();
  // None: ranks {0, 1} and {2, 3}: 90 of 50, then 80 of 50.
  EXPECT_FALSE(result.none_has_replicas);
  EXPECT_THAT(result.none.imbalance,
              ElementsAre(DoubleNear(0.8, 1e-12), DoubleNear(0.6, 1e-12), DoubleNear(0.8, 1e-12)));
  EXPECT_THAT(result.plan.imbalance, Each(0));
  EXPECT_THAT(result.transfers, Each(0));
  ASSERT_EQ(result.layers.size(), 1u);
  EXPECT_EQ(result.layers[0].layer, 5);
  EXPECT_NEAR(result.layers[0].imbalance_none, 2.2 / 3, 1e-12);
  // The fuller rank costs more time.
  EXPECT_GT(result.none.step_time[0], result.none.step_time[1]);
}

TEST(ReplayTest, WithoutBalancingOnRanksThatDoNotDivideTheExperts) {
  Random random(1);
  const Load load = random_load(random, 1, 8);
  const auto source = BatchSource::from_load(load, {.num_ranks = 3, .tokens_per_rank = 10}).value();
  const auto result =
      replay({{&source, 0}}, plan_of(load, 12, 3), 3, options_of(2, ReplicaChoice::kRoundRobin))
          .value();
  EXPECT_TRUE(result.none_has_replicas);
  EXPECT_EQ(result.none.imbalance, result.plan.imbalance);  // the same slots and choice
}

TEST(ReplayTest, ThreadsDoNotChangeTheResult) {
  Random random(2);
  const Load load = random_load(random, 7, 16);
  const auto source = BatchSource::from_load(load, {.num_ranks = 4, .tokens_per_rank = 64}).value();
  Plan plan = plan_of(load, 20, 4);
  plan.layer_updates_per_iter = 2;
  for (const auto choice :
       {ReplicaChoice::kRoundRobin, ReplicaChoice::kQuota, ReplicaChoice::kPerBatch}) {
    ReplayOptions options = options_of(30, choice);
    options.online = true;
    options.threads = 1;
    const auto one = replay({{&source, 0}}, plan, 4, options).value();
    options.threads = 5;
    const auto five = replay({{&source, 0}}, plan, 4, options).value();
    EXPECT_EQ(one.plan.imbalance, five.plan.imbalance);
    EXPECT_EQ(one.plan.send_ranks, five.plan.send_ranks);
    EXPECT_EQ(one.plan.step_time, five.plan.step_time);
    EXPECT_EQ(one.transfers, five.transfers);
  }
}

TEST(ReplayTest, PerBatchIsNeverWorseThanTheOthers) {
  Random random(3);
  const Load load = random_load(random, 3, 24);
  const auto source = BatchSource::from_load(load, {.num_ranks = 6, .tokens_per_rank = 32}).value();
  const Plan plan = plan_of(load, 36, 6);
  const auto imbalance = [&](ReplicaChoice choice) {
    return replay({{&source, 0}}, plan, 6, options_of(40, choice))->plan.imbalance;
  };
  const auto best = imbalance(ReplicaChoice::kPerBatch);
  for (const auto choice : {ReplicaChoice::kRoundRobin, ReplicaChoice::kQuota}) {
    const auto other = imbalance(choice);
    for (size_t i = 0; i < best.size(); ++i) EXPECT_LE(best[i], other[i] + 1e-12);
  }
}

TEST(ReplayTest, OnlineAdaptsAfterAShift) {
  Load first{.num_experts = 32, .top_k = 4, .layers = {0, 1}, .tokens = {}};
  Load second = first;
  for (int i = 0; i < 64; ++i) {
    first.tokens.push_back(i % 32 < 4 ? 400 : 100);
    second.tokens.push_back(i % 32 >= 28 ? 400 : 100);
  }
  const BatchOptions batches{.num_ranks = 8, .tokens_per_rank = 512};
  const auto before = BatchSource::from_load(first, batches).value();
  const auto after = BatchSource::from_load(second, batches).value();
  Plan plan = plan_of(first, 40, 8);
  plan.layer_updates_per_iter = 1;
  ReplayOptions options = options_of(400, ReplicaChoice::kRoundRobin);
  options.online = true;
  const std::vector<ReplayPhase> phases = {{&before, 0}, {&after, 200}};
  const auto online = replay(phases, plan, 8, options).value();
  options.online = false;
  const auto fixed = replay(phases, plan, 8, options).value();
  const auto mean = [](const std::vector<double>& values, int begin, int end) {
    return std::accumulate(values.begin() + begin, values.begin() + end, 0.0) / (end - begin);
  };
  for (const int begin : {0, 200}) {
    EXPECT_LT(mean(online.plan.imbalance, begin + 150, begin + 200),
              mean(fixed.plan.imbalance, begin + 150, begin + 200) / 2);
    // Moves die away once the load is met.
    const auto transfers = [&](int from, int to) {
      return std::accumulate(online.transfers.begin() + begin + from,
                             online.transfers.begin() + begin + to, int64_t{0});
    };
    EXPECT_GT(transfers(0, 60), 2 * transfers(120, 180));
  }
  EXPECT_EQ(online.plan.imbalance[0], fixed.plan.imbalance[0]);
  EXPECT_EQ(online.none.imbalance, fixed.none.imbalance);
}

TEST(ReplayTest, ThousandRanks) {
  Random random(4);
  const Load load = random_load(random, 1, 256);
  const auto source =
      BatchSource::from_load(load, {.num_ranks = 1024, .tokens_per_rank = 4, .top_k = 8}).value();
  const auto result = replay({{&source, 0}}, plan_of(load, 1024, 1024), 1024,
                             options_of(2, ReplicaChoice::kRoundRobin))
                          .value();
  EXPECT_GT(result.plan.imbalance[0], 0);
  EXPECT_GT(result.plan.send_ranks[0], 7.5);
  EXPECT_LT(result.plan.send_ranks[0], 8 + 1e-9);
}

TEST(ReplayTest, ErrorsNameBothSizes) {
  Random random(5);
  const Load load = random_load(random, 2, 8);
  const auto source = BatchSource::from_load(load, {.num_ranks = 4, .tokens_per_rank = 8}).value();
  const auto message = [&](const Plan& plan, int ranks, int iterations) {
    return replay({{&source, 0}}, plan, ranks, options_of(iterations, ReplicaChoice::kRoundRobin))
        .status()
        .message();
  };
  const Plan plan = plan_of(load, 8, 4);
  EXPECT_THAT(message(plan, 4, 0), HasSubstr("--iterations 0"));
  EXPECT_THAT(message(plan, 3, 1), HasSubstr("--ep_size 3: must divide the plan's 8 slots"));
  EXPECT_THAT(message(plan_of(random_load(random, 2, 6), 8, 4), 4, 1),
              HasSubstr("the load has 8 experts but the plan 6"));
  EXPECT_THAT(message(plan_of(random_load(random, 3, 8), 8, 4), 4, 1),
              HasSubstr("the load has 2 MoE layers but the plan 3"));
  Plan renumbered = plan;
  renumbered.layers = {3, 4};
  EXPECT_THAT(message(renumbered, 4, 1), HasSubstr("layers [0, 1] are not the plan's [3, 4]"));
}

}  // namespace
}  // namespace wideep::eplb
