#include "moe/slot_chooser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/random.h"
#include "eplb/eplb_testing.h"

namespace wideep::moe {
namespace {

using eplb::ReplicaChoice;
using eplb::Shape;
using testing::ElementsAre;

constexpr ReplicaChoice kChoices[] = {ReplicaChoice::kRoundRobin, ReplicaChoice::kQuota,
                                      ReplicaChoice::kPerBatch};

// The routed experts of all ranks.
struct Routed {
  std::vector<std::vector<int32_t>> ids;  // [ranks][pairs]
  std::vector<int32_t> counts;            // [ranks, num_experts]
};

Routed random_routed(Random& random, const Shape& shape) {
  Routed routed;
  routed.counts.assign(static_cast<size_t>(shape.num_ranks) * shape.num_experts, 0);
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    auto& ids = routed.ids.emplace_back(random.below(60));
    for (int32_t& id : ids) {
      // The lower experts are hot.
      const double u = random.uniform();
      id = random.below(12) == 0 ? -1 : static_cast<int32_t>(u * u * shape.num_experts);
      if (id >= 0) ++routed.counts[rank * shape.num_experts + id];
    }
  }
  return routed;
}

// Tokens of each slot after every rank has chosen, each token being in a slot of its expert.
std::vector<int64_t> choose_all(ReplicaChoice choice, const Shape& shape,
                                const std::vector<int>& slots, const Routed& routed) {
  std::vector<int64_t> tokens_of_slot(static_cast<size_t>(shape.num_slots));
  SlotChooser chooser(choice, shape, slots);
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    std::vector<int32_t> chosen(routed.ids[rank].size());
    chooser.choose({rank, routed.ids[rank], routed.counts}, chosen);
    for (size_t pair = 0; pair < chosen.size(); ++pair) {
      if (routed.ids[rank][pair] < 0) {
        EXPECT_EQ(chosen[pair], -1);
        continue;
      }
      EXPECT_EQ(slots[chosen[pair]], routed.ids[rank][pair]);
      ++tokens_of_slot[chosen[pair]];
    }
  }
  return tokens_of_slot;
}

TEST(SlotChooser, FillsSlotsAsThePlannerForetells) {
  Random random(1);
  for (int round = 0; round < 200; ++round) {
    const Shape shape = eplb::random_shape(random, 8, 8);
    const std::vector<int> slots = eplb::random_slots(random, shape);
    const Routed routed = random_routed(random, shape);
    const std::vector<int64_t> counts(routed.counts.begin(), routed.counts.end());
    for (const ReplicaChoice choice : kChoices) {
      const std::vector<int64_t> none(static_cast<size_t>(shape.num_experts));
      eplb::BatchSplitter foretold(choice, shape, slots, eplb::plan_quotas(shape, slots, none));
      std::vector<int64_t> sums(counts.begin(), counts.begin() + shape.num_experts);
      for (int rank = 1; rank < shape.num_ranks; ++rank) {
        for (int e = 0; e < shape.num_experts; ++e) sums[e] += counts[rank * shape.num_experts + e];
      }
      const auto expected = foretold.split(foretold.needs_sources() ? counts : sums);
      ASSERT_THAT(choose_all(choice, shape, slots, routed), testing::ElementsAreArray(expected))
          << "round " << round << ", choice " << static_cast<int>(choice);
    }
  }
}

TEST(SlotChooser, FollowsQuotas) {
  const Shape shape = {.num_experts = 1, .num_slots = 2, .num_ranks = 2};
  SlotChooser chooser(ReplicaChoice::kQuota, shape, std::vector<int>{0, 0},
                      {eplb::kQuotaOne / 4, eplb::kQuotaOne / 4 * 3});
  const std::vector<int32_t> ids(8, 0), counts = {8, 0};
  std::vector<int32_t> slots(8);
  chooser.choose({0, ids, counts}, slots);
  EXPECT_THAT(slots, ElementsAre(0, 0, 1, 1, 1, 1, 1, 1));
}

TEST(SlotChooser, NeedsCountsOnlyForReplicas) {
  const std::vector<int> slots = {1, 0};
  const Shape shape = {.num_experts = 2, .num_slots = 2, .num_ranks = 2};
  for (const ReplicaChoice choice : kChoices) {
    SlotChooser chooser(choice, shape, slots);
    EXPECT_FALSE(chooser.needs_counts());
    std::vector<int32_t> chosen(3);
    chooser.choose({0, std::vector<int32_t>{0, 1, -1}, {}}, chosen);
    EXPECT_THAT(chosen, ElementsAre(1, 0, -1));
  }
}

}  // namespace
}  // namespace wideep::moe
