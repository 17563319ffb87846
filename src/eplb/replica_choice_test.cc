#include "eplb/replica_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "eplb/eplb_testing.h"
#include "eplb/evaluate.h"

namespace wideep::eplb {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A placement and the counts of several source ranks.
struct Case {
  Shape shape;
  std::vector<int> slots;
  std::vector<int64_t> counts;  // [num_ranks, num_experts]
  std::vector<int64_t> totals;  // [num_experts]
};

Case random_case(Random& random) {
  Case c;
  c.shape = random_shape(random, 12, 9);
  c.slots = random_slots(random, c.shape);
  c.totals.assign(c.shape.num_experts, 0);
  for (int r = 0; r < c.shape.num_ranks; ++r) {
    const auto row = random_tokens(random, c.shape.num_experts, r % 2 == 0 ? 7 : 500);
    c.counts.insert(c.counts.end(), row.begin(), row.end());
    for (int e = 0; e < c.shape.num_experts; ++e) c.totals[e] += row[e];
  }
  return c;
}

// Tokens of each expert over its slots.
std::vector<int64_t> tokens_of_experts(const Case& c, std::span<const int64_t> tokens_of_slot) {
  std::vector<int64_t> tokens(c.shape.num_experts);
  for (int slot = 0; slot < c.shape.num_slots; ++slot)
    tokens[c.slots[slot]] += tokens_of_slot[slot];
  return tokens;
}

TEST(ReplicaChoiceTest, TableGroupsSlotsByExpert) {
  const Shape shape{.num_experts = 3, .num_slots = 6, .num_ranks = 2};
  const ReplicaTable table = make_replica_table(shape, std::vector<int>{2, 0, 2, 1, 2, 0});
  EXPECT_THAT(table.start, ElementsAre(0, 2, 3, 6));
  EXPECT_THAT(table.slots, ElementsAre(1, 5, 3, 0, 2, 4));
}

TEST(ReplicaChoiceTest, EveryChoiceKeepsEveryToken) {
  Random random(1);
  for (int i = 0; i < 300; ++i) {
    const Case c = random_case(random);
    for (const auto choice :
         {ReplicaChoice::kRoundRobin, ReplicaChoice::kQuota, ReplicaChoice::kPerBatch}) {
      BatchSplitter splitter(choice, c.shape, c.slots, plan_quotas(c.shape, c.slots, c.totals));
      const auto tokens_of_slot = splitter.split(c.counts);
      EXPECT_EQ(tokens_of_experts(c, tokens_of_slot), c.totals);
      EXPECT_TRUE(std::all_of(tokens_of_slot.begin(), tokens_of_slot.end(),
                              [](int64_t tokens) { return tokens >= 0; }));
    }
  }
}

TEST(ReplicaChoiceTest, PerBatchIsTheBestSplit) {
  Random random(2);
  for (int i = 0; i < 100; ++i) {
    const Case c = random_case(random);
    std::vector<int64_t> best(c.shape.num_slots);
    Splitter(c.shape, c.slots).split(c.totals, best);
    BatchSplitter splitter(ReplicaChoice::kPerBatch, c.shape, c.slots);
    EXPECT_FALSE(splitter.needs_sources());
    const auto from_sources = splitter.split(c.counts);
    EXPECT_TRUE(std::equal(best.begin(), best.end(), from_sources.begin()));
    const auto from_totals = splitter.split(c.totals);
    EXPECT_TRUE(std::equal(best.begin(), best.end(), from_totals.begin()));
  }
}

TEST(ReplicaChoiceTest, RoundRobinIsWithinOneTokenOfEvenForEverySource) {
  Random random(3);
  for (int i = 0; i < 100; ++i) {
    const Case c = random_case(random);
    const ReplicaTable table = make_replica_table(c.shape, c.slots);
    for (int r = 0; r < c.shape.num_ranks; ++r) {
      // Only this source sends; the rows before it keep its place in the order of sources.
      std::vector<int64_t> counts(c.counts.begin(),
                                  c.counts.begin() + (r + 1) * c.shape.num_experts);
      std::fill(counts.begin(), counts.end() - c.shape.num_experts, 0);
      std::vector<int64_t> tokens_of_slot(c.shape.num_slots);
      round_robin_split(table, counts, tokens_of_slot);
      const auto row = std::span(counts).last(c.shape.num_experts);
      for (int slot = 0; slot < c.shape.num_slots; ++slot) {
        const int expert = c.slots[slot];
        const double even = static_cast<double>(row[expert]) / table.num_replicas(expert);
        EXPECT_LT(std::abs(static_cast<double>(tokens_of_slot[slot]) - even), 1);
      }
    }
  }
}

TEST(ReplicaChoiceTest, RoundRobinAgreesWithItsTokens) {
  Random random(4);
  for (int i = 0; i < 50; ++i) {
    const Case c = random_case(random);
    const ReplicaTable table = make_replica_table(c.shape, c.slots);
    std::vector<int64_t> expected(c.shape.num_slots), actual(c.shape.num_slots);
    for (int r = 0; r < c.shape.num_ranks; ++r) {
      for (int e = 0; e < c.shape.num_experts; ++e) {
        for (int64_t t = 0; t < c.counts[static_cast<size_t>(r) * c.shape.num_experts + e]; ++t) {
          ++expected[table.of(e)[round_robin_replica(table.num_replicas(e), e, r, t)]];
        }
      }
    }
    round_robin_split(table, c.counts, actual);
    EXPECT_EQ(actual, expected);
  }
}

TEST(ReplicaChoiceTest, SourcesWithOneTokenFillReplicasEvenly) {
  // One expert with three replicas, nine sources with a token each.
  const Shape shape{.num_experts = 1, .num_slots = 3, .num_ranks = 3};
  std::vector<int64_t> tokens_of_slot(3);
  round_robin_split(make_replica_table(shape, std::vector<int>{0, 0, 0}),
                    std::vector<int64_t>(9, 1), tokens_of_slot);
  EXPECT_THAT(tokens_of_slot, ElementsAre(3, 3, 3));
}

TEST(ReplicaChoiceTest, QuotasSumToOneAndFollowTheBestSplit) {
  Random random(5);
  for (int i = 0; i < 200; ++i) {
    const Case c = random_case(random);
    const auto quotas = plan_quotas(c.shape, c.slots, c.totals);
    std::vector<int64_t> best(c.shape.num_slots);
    Splitter(c.shape, c.slots).split(c.totals, best);
    EXPECT_THAT(tokens_of_experts(c, quotas), Each(kQuotaOne));
    // The load that the quotas were made for is split as the best split does.
    BatchSplitter splitter(ReplicaChoice::kQuota, c.shape, c.slots, quotas);
    const auto tokens_of_slot = splitter.split(c.totals);
    EXPECT_TRUE(std::equal(best.begin(), best.end(), tokens_of_slot.begin()) ||
                std::find(c.totals.begin(), c.totals.end(), 0) != c.totals.end());
  }
}

TEST(ReplicaChoiceTest, QuotaCutsWithinOneTokenOfTheShare) {
  Random random(6);
  for (int i = 0; i < 200; ++i) {
    const Case c = random_case(random);
    const auto quotas = plan_quotas(c.shape, c.slots, c.totals);
    const auto batch = random_tokens(random, c.shape.num_experts, 100000);
    BatchSplitter splitter(ReplicaChoice::kQuota, c.shape, c.slots, quotas);
    const auto tokens_of_slot = splitter.split(batch);
    for (int slot = 0; slot < c.shape.num_slots; ++slot) {
      const double share = static_cast<double>(quotas[slot]) / kQuotaOne;
      EXPECT_LE(std::abs(static_cast<double>(tokens_of_slot[slot]) -
                         share * static_cast<double>(batch[c.slots[slot]])),
                1);
    }
  }
}

TEST(ReplicaChoiceTest, CutsHoldForTheLargestBatch) {
  // 2^33 - 1 tokens of one expert, a third to each replica.
  const Shape shape{.num_experts = 1, .num_slots = 3, .num_ranks = 3};
  const std::vector<int> slots = {0, 0, 0};
  const std::vector<int64_t> tokens = {(int64_t{1} << 33) - 1};
  BatchSplitter splitter(ReplicaChoice::kQuota, shape, slots, plan_quotas(shape, slots, tokens));
  const auto tokens_of_slot = splitter.split(tokens);
  EXPECT_EQ(std::accumulate(tokens_of_slot.begin(), tokens_of_slot.end(), int64_t{0}), tokens[0]);
  for (const int64_t t : tokens_of_slot) {
    // A quota is a multiple of 2^-30: eight tokens of this batch.
    EXPECT_NEAR(static_cast<double>(t), static_cast<double>(tokens[0]) / 3, 9);
  }
}

TEST(ReplicaChoiceTest, SlotOfTokenFollowsTheCut) {
  Random random(7);
  for (int i = 0; i < 50; ++i) {
    const Case c = random_case(random);
    const ReplicaTable table = make_replica_table(c.shape, c.slots);
    std::vector<int64_t> best(c.shape.num_slots), ends(c.shape.num_slots);
    Splitter(c.shape, c.slots).split(c.totals, best);
    split_ends(table, best, ends);
    std::vector<int64_t> counted(c.shape.num_slots);
    for (int e = 0; e < c.shape.num_experts; ++e) {
      for (int64_t t = 0; t < c.totals[e]; ++t) ++counted[slot_of_token(table, ends, e, t)];
    }
    EXPECT_EQ(counted, best);
  }
}

TEST(ReplicaChoiceTest, NoTokensNoRanksToSpare) {
  const Shape one{.num_experts = 4, .num_slots = 4, .num_ranks = 1};
  const std::vector<int> slots = {3, 1, 0, 2};
  for (const auto choice :
       {ReplicaChoice::kRoundRobin, ReplicaChoice::kQuota, ReplicaChoice::kPerBatch}) {
    BatchSplitter splitter(choice, one, slots,
                           plan_quotas(one, slots, std::vector<int64_t>{0, 0, 0, 0}));
    const auto empty = splitter.split(std::vector<int64_t>{0, 0, 0, 0});
    EXPECT_THAT(std::vector(empty.begin(), empty.end()), Each(0));
    const auto full = splitter.split(std::vector<int64_t>{1, 2, 3, 4});
    EXPECT_THAT(std::vector(full.begin(), full.end()), ElementsAre(4, 2, 1, 3));
  }
}

TEST(ReplicaChoiceTest, ThousandRanks) {
  Random random(8);
  const Shape shape{.num_experts = 256, .num_slots = 2048, .num_ranks = 1024};
  const auto slots = random_slots(random, shape);
  std::vector<int64_t> counts;
  for (int r = 0; r < shape.num_ranks; ++r) {
    const auto row = random_tokens(random, shape.num_experts, 16);
    counts.insert(counts.end(), row.begin(), row.end());
  }
  BatchSplitter round_robin(ReplicaChoice::kRoundRobin, shape, slots);
  const auto tokens_of_slot = round_robin.split(counts);
  EXPECT_EQ(std::accumulate(tokens_of_slot.begin(), tokens_of_slot.end(), int64_t{0}),
            std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  // A source leaves each replica less than a token off its even share, with either sign: over a
  // thousand sources that adds up like a random walk of steps of at most half a token.
  std::vector<int64_t> totals(shape.num_experts);
  for (size_t i = 0; i < counts.size(); ++i) totals[i % shape.num_experts] += counts[i];
  const auto replicas = count_replicas(shape, slots);
  double squares = 0;
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    const double even = static_cast<double>(totals[slots[slot]]) / replicas[slots[slot]];
    squares += std::pow(static_cast<double>(tokens_of_slot[slot]) - even, 2);
  }
  EXPECT_LT(squares / shape.num_slots, shape.num_ranks / 4.0);
}

}  // namespace
}  // namespace wideep::eplb
