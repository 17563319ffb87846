#include "eplb/split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>

#include "eplb/eplb_testing.h"
#include "eplb/evaluate.h"

namespace wideep::eplb {
namespace {

using ::testing::ElementsAre;

// Hall's condition by enumeration: the largest ceil(exclusive tokens / ranks) over all sets of
// ranks.
int64_t best_max_by_enumeration(const Shape& shape, const std::vector<int>& slots,
                                const std::vector<int64_t>& tokens) {
  std::vector<uint32_t> ranks_of(shape.num_experts, 0);
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    ranks_of[slots[slot]] |= 1u << shape.rank_of(slot);
  }
  int64_t best = 0;
  for (uint32_t set = 1; set < 1u << shape.num_ranks; ++set) {
    int64_t exclusive = 0;
    for (int expert = 0; expert < shape.num_experts; ++expert) {
      if ((ranks_of[expert] & ~set) == 0) exclusive += tokens[expert];
    }
    const int64_t size = __builtin_popcount(set);
    best = std::max(best, (exclusive + size - 1) / size);
  }
  return best;
}

// Tries every way to hand out the tokens; only for a handful of them.
int64_t best_max_by_brute_force(const Shape& shape, const std::vector<int>& slots,
                                const std::vector<int64_t>& tokens) {
  std::vector<int64_t> rank_tokens(shape.num_ranks, 0);
  int64_t best = std::accumulate(tokens.begin(), tokens.end(), int64_t{0});
  const std::function<void(int, int64_t)> place = [&](int expert, int64_t left) {
    if (expert == shape.num_experts) {
      best = std::min(best, *std::max_element(rank_tokens.begin(), rank_tokens.end()));
      return;
    }
    if (left == 0) {
      place(expert + 1, expert + 1 < shape.num_experts ? tokens[expert + 1] : 0);
      return;
    }
    for (int slot = 0; slot < shape.num_slots; ++slot) {
      if (slots[slot] != expert) continue;
      ++rank_tokens[shape.rank_of(slot)];
      place(expert, left - 1);
      --rank_tokens[shape.rank_of(slot)];
    }
  };
  place(0, tokens[0]);
  return best;
}

// What every split must be: integers that add up, no rank above the claimed maximum, and a
// certificate that anybody can check.
void expect_valid_split(const Shape& shape, const std::vector<int>& slots,
                        const std::vector<int64_t>& tokens) {
  Splitter splitter(shape, slots);
  std::vector<int64_t> of_slot(shape.num_slots, -1);
  const int64_t max = splitter.split(tokens, of_slot);
  std::vector<int64_t> of_expert(shape.num_experts, 0);
  std::vector<int64_t> of_rank(shape.num_ranks, 0);
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    ASSERT_GE(of_slot[slot], 0);
    of_expert[slots[slot]] += of_slot[slot];
    of_rank[shape.rank_of(slot)] += of_slot[slot];
  }
  EXPECT_EQ(of_expert, tokens);
  EXPECT_EQ(*std::max_element(of_rank.begin(), of_rank.end()), max);

  const SplitCertificate certificate = splitter.certificate();
  ASSERT_FALSE(certificate.cut_ranks.empty());
  const std::set<int> cut(certificate.cut_ranks.begin(), certificate.cut_ranks.end());
  std::vector<bool> inside(shape.num_experts, true);
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    if (!cut.contains(shape.rank_of(slot))) inside[slots[slot]] = false;
  }
  int64_t exclusive = 0;
  for (int expert = 0; expert < shape.num_experts; ++expert) {
    if (inside[expert]) exclusive += tokens[expert];
  }
  const auto size = static_cast<int64_t>(cut.size());
  EXPECT_EQ(certificate.cut_tokens, exclusive);
  EXPECT_EQ(certificate.max_tokens, max);
  EXPECT_EQ((exclusive + size - 1) / size, max);
}

TEST(Splitter, SharesOneExpertOverTwoRanks) {
  // Rank 0 holds experts 0 and 1, rank 1 holds 1 and 2: expert 1 fills up the emptier rank.
  const Shape shape{3, 4, 2};
  Splitter splitter(shape, std::vector<int>{0, 1, 1, 2});
  std::vector<int64_t> of_slot(4);
  EXPECT_EQ(splitter.split(std::vector<int64_t>{6, 10, 2}, of_slot), 9);
  EXPECT_THAT(of_slot, ElementsAre(6, 3, 7, 2));
  EXPECT_THAT(splitter.certificate().cut_ranks, ElementsAre(0, 1));
}

TEST(Splitter, CertificateNamesTheRankThatCannotShed) {
  const Shape shape{3, 4, 2};
  Splitter splitter(shape, std::vector<int>{0, 1, 1, 2});
  std::vector<int64_t> of_slot(4);
  EXPECT_EQ(splitter.split(std::vector<int64_t>{20, 4, 2}, of_slot), 20);
  EXPECT_THAT(of_slot, ElementsAre(20, 0, 4, 2));
  EXPECT_THAT(splitter.certificate().cut_ranks, ElementsAre(0));
  EXPECT_EQ(splitter.certificate().cut_tokens, 20);
}

TEST(Splitter, PushesAlongAChainOfRanks) {
  // Rank 0 can only hand to rank 1, and rank 1 only to rank 2.
  const Shape shape{4, 6, 3};
  Splitter splitter(shape, std::vector<int>{0, 1, 1, 2, 2, 3});
  std::vector<int64_t> of_slot(6);
  EXPECT_EQ(splitter.split(std::vector<int64_t>{6, 6, 6, 0}, of_slot), 6);
  EXPECT_THAT(of_slot, ElementsAre(6, 0, 6, 0, 6, 0));
}

TEST(Splitter, TakesDuplicatesOnARankAsOneReplica) {
  const Shape shape{2, 4, 2};
  Splitter splitter(shape, std::vector<int>{0, 0, 1, 1});
  std::vector<int64_t> of_slot(4);
  EXPECT_EQ(splitter.split(std::vector<int64_t>{7, 1}, of_slot), 7);
  EXPECT_THAT(of_slot, ElementsAre(7, 0, 1, 0));
}

TEST(Splitter, ZeroTokens) {
  const Shape shape{2, 4, 2};
  Splitter splitter(shape, std::vector<int>{0, 1, 0, 1});
  std::vector<int64_t> of_slot(4, 9);
  EXPECT_EQ(splitter.split(std::vector<int64_t>{0, 0}, of_slot), 0);
  EXPECT_THAT(of_slot, ElementsAre(0, 0, 0, 0));
}

TEST(Splitter, MatchesBruteForceOnTinyCases) {
  Random random(1);
  for (int round = 0; round < 300; ++round) {
    const Shape shape = random_shape(random, 3, 2);
    const std::vector<int> slots = random_slots(random, shape);
    std::vector<int64_t> tokens(shape.num_experts);
    for (int64_t& t : tokens) t = static_cast<int64_t>(random.below(4));
    Splitter splitter(shape, slots);
    EXPECT_EQ(splitter.best_max(tokens), best_max_by_brute_force(shape, slots, tokens));
  }
}

TEST(Splitter, MatchesHallsConditionOnSmallCases) {
  Random random(2);
  for (int round = 0; round < 2000; ++round) {
    const Shape shape = random_shape(random, 9, 6);
    const std::vector<int> slots = random_slots(random, shape);
    const std::vector<int64_t> tokens = random_tokens(random, shape.num_experts);
    Splitter splitter(shape, slots);
    EXPECT_EQ(splitter.best_max(tokens), best_max_by_enumeration(shape, slots, tokens));
    expect_valid_split(shape, slots, tokens);
  }
}

TEST(Splitter, ProvesItselfOnLargeCases) {
  Random random(3);
  for (int round = 0; round < 60; ++round) {
    const Shape shape = random_shape(random, 128, 10);
    expect_valid_split(shape, random_slots(random, shape),
                       random_tokens(random, shape.num_experts, 1'000'000'000));
  }
}

TEST(Splitter, KeepsNothingOfTheBatchBefore) {
  Random random(4);
  const Shape shape{64, 72, 9};
  const std::vector<int> slots = random_slots(random, shape);
  Splitter used(shape, slots);
  for (int round = 0; round < 50; ++round) {
    const std::vector<int64_t> tokens = random_tokens(random, shape.num_experts);
    Splitter fresh(shape, slots);
    std::vector<int64_t> a(shape.num_slots);
    std::vector<int64_t> b(shape.num_slots);
    EXPECT_EQ(used.split(tokens, a), fresh.split(tokens, b));
    EXPECT_EQ(a, b);
  }
}

}  // namespace
}  // namespace wideep::eplb
