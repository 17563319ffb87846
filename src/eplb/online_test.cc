#include "eplb/online.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "eplb/eplb_testing.h"
#include "eplb/evaluate.h"
#include "eplb/sampler.h"

namespace wideep::eplb {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(UpdateScheduleTest, PeriodsOfDeepSeek) {
  EXPECT_EQ(UpdateSchedule(58, 2).period(), 30);  // 29 groups of 2, and a rest
  EXPECT_EQ(UpdateSchedule(58, 1).period(), 59);
  EXPECT_EQ(UpdateSchedule(59, 2).period(), 30);  // the last group has one layer: no rest
  EXPECT_EQ(UpdateSchedule(58, 0).period(), 0);
  EXPECT_EQ(UpdateSchedule(1, 5).period(), 2);
}

TEST(UpdateScheduleTest, GroupsAreInterleaved) {
  const UpdateSchedule schedule(5, 2);  // 3 groups: {0, 3}, {1, 4}, {2}
  EXPECT_THAT(schedule.turns(0), ElementsAre(0, 3));
  EXPECT_THAT(schedule.turns(1), ElementsAre(1, 4));
  EXPECT_THAT(schedule.turns(2), ElementsAre(2));
  EXPECT_THAT(schedule.turns(3), ElementsAre(0, 3));
  EXPECT_THAT(UpdateSchedule(4, 2).turns(2), IsEmpty());
}

TEST(UpdateScheduleTest, EveryLayerHasOneTurnACycle) {
  for (int num_layers = 1; num_layers <= 70; ++num_layers) {
    for (int updates = 1; updates <= 9; ++updates) {
      const UpdateSchedule schedule(num_layers, updates);
      std::vector<int> turns(num_layers);
      for (int64_t i = 1000; i < 1000 + schedule.period(); ++i) {
        const auto layers = schedule.turns(i);
        EXPECT_LE(static_cast<int>(layers.size()), updates);
        for (const int l : layers) ++turns[l];
        for (int l = 0; l < num_layers; ++l) {
          EXPECT_EQ(schedule.is_turn(l, i),
                    std::find(layers.begin(), layers.end(), l) != layers.end());
        }
      }
      EXPECT_EQ(turns, std::vector<int>(num_layers, 1));
    }
  }
}

TEST(DecayedLoadTest, DecaysAndAdds) {
  DecayedLoad load(2, 0.5);
  load.add(std::vector<int64_t>{8, 0});
  load.add(std::vector<int64_t>{0, 3});
  load.close_window();  // old and recent add up
  load.add(std::vector<int64_t>{1, 1});
  EXPECT_THAT(load.tokens(), ElementsAre(3 * DecayedLoad::kUnit, 5 * DecayedLoad::kUnit / 2));
  // Weights 1/4, 1/2, 1 on 8, 3 and 2 tokens.
  EXPECT_DOUBLE_EQ(load.effective_tokens() * load.design_effect(),
                   5.5 * 5.5 / (8 / 16.0 + 3 / 4.0 + 2));
  load.clear();
  EXPECT_THAT(load.tokens(), ElementsAre(0, 0));
  EXPECT_EQ(load.effective_tokens(), 0);
}

TEST(DecayedLoadTest, SettlesWithoutOverflow) {
  DecayedLoad load(2, 0.95);
  const int64_t largest = (int64_t{1} << 31) - 1;
  for (int i = 0; i < 2000; ++i) load.add(std::vector<int64_t>{largest, 0});
  EXPECT_NEAR(static_cast<double>(load.tokens()[0]),
              20.0 * static_cast<double>(largest) * DecayedLoad::kUnit,
              1e-4 * 20 * static_cast<double>(largest) * DecayedLoad::kUnit);
  EXPECT_EQ(load.tokens()[1], 0);
  EXPECT_NEAR(load.effective_tokens() / static_cast<double>(largest), 1.95 / 0.05, 1e-2);
}

TEST(DecayedLoadTest, DesignEffectIsOneForIndependentTokensAndTheirRunLengthForRuns) {
  Random random(5);
  const auto load = random_tokens(random, 64);
  for (const int run : {1, 8}) {
    DecayedLoad decayed(64, 0.99);
    std::vector<int64_t> counts(64);
    for (int i = 0; i < 400; ++i) {
      sample_counts(random, load, 2048 / run, counts);
      for (int64_t& count : counts) count *= run;  // every draw is `run` tokens of one expert
      decayed.add(counts);
    }
    EXPECT_NEAR(decayed.design_effect(), run, 0.15 * run);
  }
}

TEST(DecayedLoadTest, ShiftStandsOutFromNoise) {
  Random random(6);
  const auto before = random_tokens(random, 64), after = random_tokens(random, 64);
  DecayedLoad decayed(64, 0.95);
  std::vector<int64_t> counts(64);
  const auto window = [&](const std::vector<int64_t>& load) {
    for (int i = 0; i < 10; ++i) {
      sample_counts(random, load, 1024, counts);
      decayed.add(counts);
    }
    const double shift = decayed.shift();
    decayed.close_window();
    return shift;
  };
  EXPECT_EQ(window(before), 0);  // nothing older to compare with
  for (int i = 0; i < 50; ++i) EXPECT_LT(window(before), 2.5);
  EXPECT_GT(window(after), 5);
}

TEST(ExpectedMaxNormalTest, KnownMeans) {
  EXPECT_EQ(expected_max_normal(1), 0);
  EXPECT_NEAR(expected_max_normal(2), 0.564, 0.03);
  EXPECT_NEAR(expected_max_normal(36), 2.118, 0.01);
  EXPECT_NEAR(expected_max_normal(100), 2.508, 0.01);
}

class LayerBalancerTest : public ::testing::Test {
 protected:
  LayerBalancerTest() {
    options_.plan.max_transfers = 4;
    slots_ = default_assignment(shape_);
  }

  // Experts [first, first + 3] are four times as hot as the others.
  std::vector<int64_t> hot(int first) const {
    std::vector<int64_t> tokens(shape_.num_experts, 100);
    for (int e = first; e < first + 4; ++e) tokens[e] = 400;
    return tokens;
  }

  double even_ratio(const LayerBalancer& balancer, const std::vector<int64_t>& tokens) const {
    return max_over_mean(even_rank_tokens(shape_, balancer.slots(), tokens));
  }

  const Shape shape_{.num_experts = 32, .num_slots = 40, .num_ranks = 8};
  OnlineOptions options_;
  std::vector<int> slots_;
};

TEST_F(LayerBalancerTest, KeepsThePlanWithoutTokens) {
  LayerBalancer balancer(3, shape_, slots_, options_);
  const LayerUpdate update = balancer.take_turn().value();
  EXPECT_FALSE(update.moved);
  balancer.record(std::vector<int64_t>(shape_.num_experts, 0));
  EXPECT_FALSE(balancer.take_turn()->moved);
}

TEST_F(LayerBalancerTest, AdaptsAfterAShiftThenRests) {
  LayerBalancer balancer(3, shape_, slots_, options_);
  Random random(1);
  std::vector<int64_t> counts(shape_.num_experts);
  const auto run = [&](const std::vector<int64_t>& load, int iterations) {
    int transfers = 0;
    for (int i = 0; i < iterations; ++i) {
      sample_counts(random, load, 8 * 512, counts);
      balancer.record(counts);
      if (i % 10 != 9) continue;
      const LayerUpdate update = balancer.take_turn().value();
      EXPECT_LE(update.transfers, 4);
      EXPECT_EQ(update.bytes, update.transfers * options_.plan.expert_bytes);
      EXPECT_TRUE(update.moved || update.transfers == 0);
      transfers += update.transfers;
    }
    return transfers;
  };
  for (const int first : {0, 20}) {
    const double before = even_ratio(balancer, hot(first));
    EXPECT_GT(before, 1.2);
    EXPECT_GT(run(hot(first), 100), 0);
    EXPECT_LT(even_ratio(balancer, hot(first)), 1.08);
    EXPECT_LE(run(hot(first), 200), 4);  // within the noise: in 20 turns one false alarm at most
  }
}

TEST_F(LayerBalancerTest, NoiseAloneMovesNothing) {
  // A uniform load and replicas on the right ranks: any imbalance seen is of sampling.
  const Shape shape{.num_experts = 64, .num_slots = 64, .num_ranks = 16};
  LayerBalancer balancer(0, shape, default_assignment(shape), options_);
  const std::vector<int64_t> uniform(64, 1);
  Random random(2);
  std::vector<int64_t> counts(64);
  int moves = 0;
  for (int i = 0; i < 400; ++i) {
    sample_counts(random, uniform, 16 * 32, counts);
    balancer.record(counts);
    if (i % 10 == 9) moves += balancer.take_turn()->moved;
  }
  EXPECT_LE(moves, 1);
}

TEST_F(LayerBalancerTest, PlansForTheNewLoadAfterAShift) {
  options_.plan.max_transfers = -1;
  const auto ratio_after_shift = [&](double shift_factor) {
    options_.shift_factor = shift_factor;
    LayerBalancer balancer(0, shape_, slots_, options_);
    Random random(3);
    std::vector<int64_t> counts(shape_.num_experts);
    for (const int first : {0, 20}) {
      for (int i = 0; i < 10; ++i) {
        sample_counts(random, hot(first), 8 * 512, counts);
        balancer.record(counts);
      }
      const LayerUpdate update = balancer.take_turn().value();
      EXPECT_TRUE(update.moved);
      EXPECT_EQ(update.shifted, first == 20 && shift_factor < 1e9);
    }
    return even_ratio(balancer, hot(20));
  };
  // Forgetting sees the new load as it is; remembering sees a mixture that fits neither.
  EXPECT_LT(ratio_after_shift(3), ratio_after_shift(1e9));
}

TEST_F(LayerBalancerTest, QuotasFollowTheLoadWithoutTransfers) {
  options_.replica_choice = ReplicaChoice::kQuota;
  LayerBalancer balancer(0, shape_, slots_, options_);
  balancer.record(hot(0));
  const auto first = balancer.quotas();
  EXPECT_EQ(first, plan_quotas(shape_, slots_, hot(0)));
  for (int i = 0; i < 300; ++i) balancer.record(hot(20));
  EXPECT_NE(balancer.quotas(), first);
  EXPECT_TRUE(std::equal(slots_.begin(), slots_.end(), balancer.slots().begin()));
}

}  // namespace
}  // namespace wideep::eplb
