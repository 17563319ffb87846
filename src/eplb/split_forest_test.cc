#include "eplb/split_forest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>

#include "base/random.h"

namespace wideep::eplb {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

struct Graph {
  int num_ranks = 0;
  std::vector<int> expert_begin = {0};
  std::vector<int> replica_ranks;

  void add_expert(const std::vector<int>& ranks) {
    replica_ranks.insert(replica_ranks.end(), ranks.begin(), ranks.end());
    expert_begin.push_back(static_cast<int>(replica_ranks.size()));
  }
  SplitForest forest() const { return make_split_forest(num_ranks, expert_begin, replica_ranks); }
};

Graph random_graph(Random& random) {
  Graph graph;
  graph.num_ranks = 1 + static_cast<int>(random.below(20));
  const int num_experts = static_cast<int>(random.below(20));
  for (int e = 0; e < num_experts && graph.num_ranks > 1; ++e) {
    std::vector<int> ranks(static_cast<size_t>(graph.num_ranks));
    std::iota(ranks.begin(), ranks.end(), 0);
    shuffle(random, std::span(ranks));
    ranks.resize(2 + random.below(std::min(graph.num_ranks - 1, 4)));
    std::ranges::sort(ranks);
    graph.add_expert(ranks);
  }
  return graph;
}

// The ranks that share experts with a rank, directly or by way of others.
std::set<int> part_of(const Graph& graph, int rank) {
  std::set<int> part = {rank};
  for (size_t before = 0; before != part.size();) {
    before = part.size();
    for (size_t e = 0; e + 1 < graph.expert_begin.size(); ++e) {
      const std::span<const int> ranks(&graph.replica_ranks[graph.expert_begin[e]],
                                       &graph.replica_ranks[graph.expert_begin[e + 1]]);
      if (std::ranges::any_of(ranks, [&](int r) { return part.contains(r); })) {
        part.insert(ranks.begin(), ranks.end());
      }
    }
  }
  return part;
}

TEST(SplitForest, LaysOutAChain) {
  // Rank 1 shares one expert with rank 0 and one with rank 3; rank 2 is alone.
  Graph graph;
  graph.num_ranks = 4;
  graph.add_expert({0, 1});
  graph.add_expert({1, 3});
  const SplitForest forest = graph.forest();
  EXPECT_THAT(forest.order, ElementsAre(0, 1, 3, 2));
  EXPECT_THAT(forest.part_begin, ElementsAre(0, 0, 0, 3));
  EXPECT_THAT(forest.part_end, ElementsAre(3, 3, 3, 4));
  // Rank 0 takes what ranks 1 and 3 have too much, and rank 1 gives it.
  EXPECT_THAT(forest.give_begin, ElementsAre(3, 1, 3, 2));
  EXPECT_THAT(forest.give_end, ElementsAre(1, 3, 2, 3));
}

TEST(SplitForest, WithoutSharedExpertsRanksAreAlone) {
  const SplitForest forest = make_split_forest(2, std::vector<int>{0}, {});
  EXPECT_THAT(forest.order, ElementsAre(0, 1));
  EXPECT_THAT(forest.part_end, ElementsAre(1, 2));
  EXPECT_THAT(forest.give_begin, IsEmpty());
}

TEST(SplitForest, PartsAreThoseOfTheGraph) {
  Random random(1);
  for (int trial = 0; trial < 200; ++trial) {
    const Graph graph = random_graph(random);
    const SplitForest forest = graph.forest();
    for (int i = 0; i < graph.num_ranks; ++i) {
      const std::set<int> part(forest.order.begin() + forest.part_begin[i],
                               forest.order.begin() + forest.part_end[i]);
      EXPECT_EQ(part, part_of(graph, forest.order[i]));
    }
  }
}

// Whatever the ranks have: giving as told leaves all ranks of a part with the same, and each expert
// with what it had.
TEST(SplitForest, GivingBalancesEveryPart) {
  Random random(2);
  for (int trial = 0; trial < 200; ++trial) {
    const Graph graph = random_graph(random);
    const SplitForest forest = graph.forest();
    std::vector<int> surplus(static_cast<size_t>(graph.num_ranks));
    for (int i = 0; i < graph.num_ranks; ++i) {
      // Sums to zero over each part.
      if (i == forest.part_begin[i]) continue;
      const int some = static_cast<int>(random.below(100)) - 50;
      surplus[forest.order[i]] += some;
      surplus[forest.order[forest.part_begin[i]]] -= some;
    }
    std::vector<int> before = {0};
    for (const int rank : forest.order) before.push_back(before.back() + surplus[rank]);
    for (size_t e = 0; e + 1 < graph.expert_begin.size(); ++e) {
      int of_expert = 0;
      for (int r = graph.expert_begin[e]; r < graph.expert_begin[e + 1]; ++r) {
        const int given = before[forest.give_end[r]] - before[forest.give_begin[r]];
        surplus[graph.replica_ranks[r]] -= given;
        of_expert += given;
      }
      EXPECT_EQ(of_expert, 0);
    }
    EXPECT_EQ(std::ranges::count(surplus, 0), graph.num_ranks);
  }
}

}  // namespace
}  // namespace wideep::eplb
