#include "eplb/send_ranks.h"

#include <gmock/gmock.h>

#include <set>

#include "base/random.h"

namespace wideep::eplb {
namespace {

using ::testing::HasSubstr;

TEST(SendRanks, CountsDistinctRanksWithoutReplicas) {
  // Ranks {0 1} {2 3} {4 5}.
  const std::vector<int> slots = {0, 1, 2, 3, 4, 5};
  SendRanks send_ranks({6, 6, 3}, slots);
  EXPECT_DOUBLE_EQ(send_ranks.of_token(std::vector<int>{0, 1}), 1);
  EXPECT_DOUBLE_EQ(send_ranks.of_token(std::vector<int>{0, 2}), 2);
  EXPECT_DOUBLE_EQ(send_ranks.of_token(std::vector<int>{5, 0, 3, 4}), 3);
  EXPECT_DOUBLE_EQ(send_ranks.of_token(std::vector<int>{-1, 4}), 1);
  EXPECT_DOUBLE_EQ(send_ranks.of_token(std::vector<int>{-1, -1}), 0);
}

TEST(SendRanks, TakesEachReplicaAsAnEvenChance) {
  // Ranks {0 1} {0 2}: expert 0 is on rank 0 or 1, half and half.
  const std::vector<int> slots = {0, 1, 0, 2};
  SendRanks send_ranks({3, 4, 2}, slots);
  EXPECT_DOUBLE_EQ(send_ranks.of_token(std::vector<int>{0}), 1);
  EXPECT_DOUBLE_EQ(send_ranks.of_token(std::vector<int>{0, 1}), 1.5);
  EXPECT_DOUBLE_EQ(send_ranks.of_token(std::vector<int>{0, 1, 2}), 2);
}

TEST(SendRanks, TreatsTwoSlotsOnOneRankAsIndependentChances) {
  // Ranks {0 0} {1 2}: 1 - (1 - 1/2)^2, as the formula says; the token certainly goes there.
  const std::vector<int> slots = {0, 0, 1, 2};
  SendRanks send_ranks({3, 4, 2}, slots);
  EXPECT_DOUBLE_EQ(send_ranks.of_token(std::vector<int>{0}), 0.75);
}

// A placement with no expert twice on a rank: ranks deal out experts in turn.
struct Placement {
  Shape shape;
  std::vector<int> slots;
};

Placement random_placement(Random& random) {
  const int num_experts = 2 + static_cast<int>(random.below(6));
  const int num_ranks = 2 + static_cast<int>(random.below(3));
  const int least = (num_experts + num_ranks - 1) / num_ranks;
  const int per_rank = least + static_cast<int>(random.below(num_experts - least + 1));
  Placement placement{{num_experts, num_ranks * per_rank, num_ranks}, {}};
  for (int slot = 0; slot < placement.shape.num_slots; ++slot) {
    placement.slots.push_back(slot % num_experts);
  }
  return placement;
}

// Every way to choose one replica for each chosen expert, all equally likely.
double brute_force(const Placement& placement, const std::vector<int>& chosen, size_t next,
                   std::multiset<int>& ranks) {
  if (next == chosen.size()) {
    return static_cast<double>(std::set<int>(ranks.begin(), ranks.end()).size());
  }
  double sum = 0;
  int replicas = 0;
  for (int slot = 0; slot < placement.shape.num_slots; ++slot) {
    if (placement.slots[slot] != chosen[next]) continue;
    const auto it = ranks.insert(placement.shape.rank_of(slot));
    sum += brute_force(placement, chosen, next + 1, ranks);
    ranks.erase(it);
    ++replicas;
  }
  return sum / replicas;
}

TEST(SendRanks, AgreesWithEveryChoiceOfReplicas) {
  Random random(3);
  for (int round = 0; round < 100; ++round) {
    const Placement placement = random_placement(random);
    SendRanks send_ranks(placement.shape, placement.slots);
    for (int token = 0; token < 5; ++token) {
      std::vector<int> chosen;
      for (int expert = 0; expert < placement.shape.num_experts; ++expert) {
        if (random.below(2) == 0) chosen.push_back(expert);
      }
      std::multiset<int> ranks;
      EXPECT_NEAR(send_ranks.of_token(chosen), brute_force(placement, chosen, 0, ranks), 1e-12);
    }
  }
}

TEST(SendRanksRow, AveragesTheRoutedTokensOfOneLayer) {
  const std::vector<int> slots = {0, 1, 2, 3};
  const std::vector<RawIds> records = {
      {.rank = 0, .iteration = 1, .layer = 3, .top_k = 2, .experts = {0, 1, 0, 2}},
      {.rank = 1, .iteration = 2, .layer = 3, .top_k = 2, .experts = {1, 3, -1, -1}},
      {.rank = 0, .iteration = 1, .layer = 4, .top_k = 2, .experts = {2, 3}},
  };
  const SendRanksRow row = send_ranks_row(records, 3, {4, 4, 2}, slots).value();
  EXPECT_EQ(row.layer, 3);
  EXPECT_EQ(row.num_tokens, 3);
  EXPECT_DOUBLE_EQ(row.ranks, 5.0 / 3);
  EXPECT_DOUBLE_EQ(send_ranks_row(records, 4, {4, 4, 2}, slots).value().ranks, 1);
  const SendRanksRow none = send_ranks_row(records, 5, {4, 4, 2}, slots).value();
  EXPECT_EQ(none.num_tokens, 0);
  EXPECT_EQ(none.ranks, 0);
}

TEST(SendRanksRow, RefusesAnUnknownExpert) {
  const std::vector<RawIds> records = {
      {.rank = 2, .iteration = 8, .layer = 3, .top_k = 1, .experts = {2}}};
  const auto row = send_ranks_row(records, 3, {2, 2, 1}, std::vector<int>{0, 1});
  ASSERT_FALSE(row.is_ok());
  EXPECT_EQ(row.status().code(), StatusCode::kInvalidInput);
  EXPECT_THAT(row.status().message(), HasSubstr("rank 2, iteration 8, layer 3: expert 2"));
}

TEST(SendRanksRow, AverageIsUnweighted) {
  EXPECT_DOUBLE_EQ(average_send_ranks(std::vector<SendRanksRow>{{3, 2.0, 1}, {4, 5.0, 1000}}), 3.5);
  EXPECT_EQ(average_send_ranks({}), 0);
}

}  // namespace
}  // namespace wideep::eplb
