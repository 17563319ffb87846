#include "eplb/moves.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "eplb/eplb_testing.h"
#include "eplb/incremental.h"

namespace wideep::eplb {
namespace {

TEST(PlanMoves, NothingToDo) {
  const std::vector<int> slots = {0, 1, 2, 0};
  const MovePlan plan = plan_moves({3, 4, 2}, slots, slots);
  EXPECT_TRUE(plan.moves.empty());
  EXPECT_EQ(plan.num_rounds, 0);
}

TEST(PlanMoves, CopiesFromTheOwnRankWhereItCan) {
  const MovePlan plan =
      plan_moves({3, 4, 2}, std::vector<int>{0, 1, 2, 0}, std::vector<int>{1, 0, 2, 1});
  ASSERT_EQ(plan.moves.size(), 3);
  EXPECT_EQ(plan.moves[0].source_slot, 1);
  EXPECT_EQ(plan.moves[0].round, -1);
  EXPECT_EQ(plan.moves[1].source_slot, 0);
  EXPECT_EQ(plan.moves[2].source_slot, 1);
  EXPECT_EQ(plan.moves[2].round, 0);
  EXPECT_EQ(plan.num_transfers, 1);
  EXPECT_EQ(plan.num_rounds, 1);
}

TEST(PlanMoves, PrefersTheOwnNode) {
  // Four ranks in two nodes; rank 3 needs expert 0, held by rank 0 (other node) and rank 2 (own).
  const Shape shape{3, 4, 4};
  const MovePlan plan =
      plan_moves(shape, std::vector<int>{0, 1, 0, 2}, std::vector<int>{2, 1, 0, 0}, 2);
  EXPECT_EQ(plan.moves.back().slot, 3);
  EXPECT_EQ(plan.moves.back().source_slot, 2);
}

TEST(PlanMoves, RoundsAreFreeOfConflictsAndAsFewAsPossible) {
  Random random(31);
  for (int round = 0; round < 400; ++round) {
    const Shape shape = random_shape(random, 24, 8);
    const auto previous = random_slots(random, shape);
    const auto next = random_slots(random, shape);
    const MovePlan plan = plan_moves(shape, previous, next, 4);
    std::set<std::pair<int, int>> sends;
    std::set<std::pair<int, int>> receives;
    std::vector<int> num_sends(shape.num_ranks, 0);
    std::vector<int> num_receives(shape.num_ranks, 0);
    std::vector<int> after = previous;
    for (const Move& move : plan.moves) {
      EXPECT_EQ(previous[move.source_slot], move.expert);
      after[move.slot] = move.expert;
      const int sender = shape.rank_of(move.source_slot);
      const int receiver = shape.rank_of(move.slot);
      if (sender == receiver) {
        EXPECT_EQ(move.round, -1);
        continue;
      }
      EXPECT_TRUE(sends.emplace(sender, move.round).second);
      EXPECT_TRUE(receives.emplace(receiver, move.round).second);
      ++num_sends[sender];
      ++num_receives[receiver];
      EXPECT_GE(move.round, 0);
      EXPECT_LT(move.round, plan.num_rounds);
    }
    EXPECT_EQ(after, next);
    EXPECT_EQ(plan.num_transfers, count_transfers(shape, previous, next));
    EXPECT_EQ(plan.num_rounds,
              std::max(*std::max_element(num_sends.begin(), num_sends.end()),
                       *std::max_element(num_receives.begin(), num_receives.end())));
  }
}

}  // namespace
}  // namespace wideep::eplb
