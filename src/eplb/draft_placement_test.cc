#include "eplb/draft_placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "eplb/eplb_testing.h"
#include "eplb/evaluate.h"

namespace wideep::eplb {
namespace {

using ::testing::ElementsAre;

// What the placement says of itself is what its slots say.
void expect_consistent(const DraftPlacement& placement) {
  const Shape& shape = placement.shape();
  std::vector<int64_t> tokens;
  for (int e = 0; e < shape.num_experts; ++e) {
    tokens.push_back(static_cast<int64_t>(placement.tokens(e)));
  }
  const auto rank_tokens = even_rank_tokens(shape, placement.slots(), tokens);
  const auto replicas = count_replicas(shape, placement.slots());
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    EXPECT_NEAR(placement.rank_tokens(rank), rank_tokens[rank], 1e-6);
  }
  for (int e = 0; e < shape.num_experts; ++e) EXPECT_EQ(placement.replicas(e), replicas[e]);
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    EXPECT_GE(placement.held(shape.rank_of(slot), placement.expert(slot)), 1);
  }
}

TEST(ChooseReplicas, ByHand) {
  EXPECT_THAT(choose_replicas(std::vector<double>{90, 50, 20, 10}, 6, 2), ElementsAre(2, 2, 1, 1));
  // Capped: the second and third copy go to the next hottest.
  EXPECT_THAT(choose_replicas(std::vector<double>{90, 5, 4}, 5, 2), ElementsAre(2, 2, 1));
  EXPECT_THAT(choose_replicas(std::vector<double>{1, 1}, 2, 1), ElementsAre(1, 1));
  EXPECT_THAT(choose_replicas(std::vector<double>{0, 0, 0}, 6, 2), ElementsAre(2, 2, 2));
}

TEST(DraftPlacement, AddRestNeverPutsAnExpertOnARankTwice) {
  Random random(21);
  for (int round = 0; round < 500; ++round) {
    Shape shape = random_shape(random, 12, 6);
    if (shape.num_slots > shape.num_experts * shape.num_ranks) continue;
    const auto tokens = random_tokens(random, shape.num_experts);
    const std::vector<double> weights(tokens.begin(), tokens.end());
    DraftPlacement placement(shape, tokens,
                             choose_replicas(weights, shape.num_slots, shape.num_ranks));
    placement.add_rest();
    EXPECT_EQ(count_duplicates(shape, placement.slots()), 0);
    expect_consistent(placement);
  }
}

TEST(DraftPlacement, SwapAndOverwriteKeepTheBooks) {
  Random random(22);
  for (int round = 0; round < 200; ++round) {
    const Shape shape = random_shape(random, 8, 5);
    auto tokens = random_tokens(random, shape.num_experts);
    tokens[0] = 1;  // not all zero
    DraftPlacement placement = DraftPlacement::of(shape, tokens, random_slots(random, shape));
    for (int step = 0; step < 20; ++step) {
      const int slot = static_cast<int>(random.below(shape.num_slots));
      const int expert = static_cast<int>(random.below(shape.num_experts));
      const int other = static_cast<int>(random.below(shape.num_slots));
      if (placement.replicas(placement.expert(slot)) >= 2 && placement.expert(slot) != expert) {
        placement.overwrite(slot, expert);
      } else if (shape.rank_of(slot) != shape.rank_of(other)) {
        placement.swap(slot, other);
      }
    }
    expect_consistent(placement);
  }
}

TEST(DraftPlacement, NoTrafficCountsAsEqualTraffic) {
  const auto placement =
      DraftPlacement::of({2, 2, 2}, std::vector<int64_t>{0, 0}, std::vector<int>{0, 1});
  EXPECT_EQ(placement.max_over_mean(), 1);
}

TEST(DraftPlacement, SortsTheSlotsOfEachRank) {
  DraftPlacement placement =
      DraftPlacement::of({4, 4, 2}, std::vector<int64_t>{1, 9, 5, 5}, std::vector<int>{0, 1, 3, 2});
  placement.sort_slots();
  EXPECT_THAT(placement.slots(), ElementsAre(1, 0, 2, 3));
}

}  // namespace
}  // namespace wideep::eplb
