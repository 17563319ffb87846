#include "config/mapping.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace wideep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Mapping mapped(const ParallelConfig& sizes) {
  Result<Mapping> mapping = Mapping::create(sizes);
  CHECK(mapping.is_ok());
  return *std::move(mapping);
}

TEST(Mapping, SplitsExpertsAsTheExampleOfEightGpus) {
  const Mapping mapping = mapped(
      {.tensor_parallel_size = 8, .moe_tensor_parallel_size = 2, .moe_expert_parallel_size = 4});
  EXPECT_THAT(mapping.moe_ep_group(2), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(mapping.moe_ep_group(4), ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(mapping.moe_tp_group(0), ElementsAre(0, 4));
  EXPECT_THAT(mapping.moe_tp_group(7), ElementsAre(3, 7));
  EXPECT_EQ(mapping.coordinates(6),
            (Coordinates{.tp_rank = 6, .moe_tp_rank = 1, .moe_ep_rank = 2}));
}

TEST(Mapping, CompletesTheMoeSizes) {
  const auto moe_sizes = [](std::optional<int> moe_tp, std::optional<int> moe_ep) {
    const Mapping mapping = mapped({.tensor_parallel_size = 8,
                                    .moe_tensor_parallel_size = moe_tp,
                                    .moe_expert_parallel_size = moe_ep});
    return std::pair(mapping.moe_tp(), mapping.moe_ep());
  };
  EXPECT_EQ(moe_sizes(std::nullopt, std::nullopt), std::pair(8, 1));
  EXPECT_EQ(moe_sizes(std::nullopt, 8), std::pair(1, 8));
  EXPECT_EQ(moe_sizes(2, std::nullopt), std::pair(2, 4));
  EXPECT_EQ(moe_sizes(4, 2), std::pair(4, 2));
}

TEST(Mapping, CountsTensorFastestThenContextThenPipeline) {
  const Mapping mapping =
      mapped({.tensor_parallel_size = 2, .pipeline_parallel_size = 3, .context_parallel_size = 2});
  EXPECT_EQ(mapping.world(), 12);
  EXPECT_EQ(mapping.rank_of(1, 0, 2), 9);
  EXPECT_THAT(mapping.tp_group(9), ElementsAre(8, 9));
  EXPECT_THAT(mapping.cp_group(9), ElementsAre(9, 11));
  EXPECT_THAT(mapping.pp_group(9), ElementsAre(1, 5, 9));
}

// In every world: coordinates and ranks are inverse, each kind of group divides the world into
// parts of its size, and EP x MoE-TP covers a TP group.
TEST(Mapping, GroupsPartitionTheWorld) {
  for (const int tp : {1, 2, 6, 8}) {
    for (const int pp : {1, 3}) {
      for (const int cp : {1, 2}) {
        for (const int ep : {1, 2}) {
          if (tp % ep != 0) continue;
          const Mapping mapping = mapped({.tensor_parallel_size = tp,
                                          .pipeline_parallel_size = pp,
                                          .context_parallel_size = cp,
                                          .moe_expert_parallel_size = ep});
          SCOPED_TRACE(fmt::format("tp {} pp {} cp {} ep {}", tp, pp, cp, ep));
          for (int rank = 0; rank < mapping.world(); ++rank) {
            const Coordinates at = mapping.coordinates(rank);
            EXPECT_EQ(mapping.rank_of(at.tp_rank, at.cp_rank, at.pp_rank), rank);
            const auto check_group = [&](auto group, int size, int index) {
              const std::vector<int> ranks = (mapping.*group)(rank);
              ASSERT_EQ(static_cast<int>(ranks.size()), size);
              EXPECT_EQ(ranks[static_cast<size_t>(index)], rank);
              EXPECT_TRUE(std::ranges::is_sorted(ranks));
              for (const int member : ranks) EXPECT_EQ((mapping.*group)(member), ranks);
            };
            check_group(&Mapping::tp_group, tp, at.tp_rank);
            check_group(&Mapping::cp_group, cp, at.cp_rank);
            check_group(&Mapping::pp_group, pp, at.pp_rank);
            check_group(&Mapping::moe_ep_group, ep, at.moe_ep_rank);
            check_group(&Mapping::moe_tp_group, tp / ep, at.moe_tp_rank);
          }
        }
      }
    }
  }
}

TEST(Mapping, ErrorsNameBothNumbers) {
  const auto refusal = [](const ParallelConfig& sizes) {
    const Result<Mapping> mapping = Mapping::create(sizes);
    EXPECT_FALSE(mapping.is_ok());
    return mapping.status().message();
  };
  EXPECT_EQ(
      refusal({.tensor_parallel_size = 8,
               .moe_tensor_parallel_size = 4,
               .moe_expert_parallel_size = 4}),
      "moe_expert_parallel_size: 4: moe_tensor_parallel_size 4 x moe_expert_parallel_size 4 = "
      "16, must equal tensor_parallel_size 8");
  EXPECT_THAT(refusal({.tensor_parallel_size = 8, .moe_expert_parallel_size = 3}),
              HasSubstr("2 x moe_expert_parallel_size 3 = 6, must equal tensor_parallel_size 8"));
  EXPECT_THAT(refusal({.tensor_parallel_size = 8, .moe_tensor_parallel_size = 16}),
              HasSubstr("moe_tensor_parallel_size: 16: "));
  EXPECT_THAT(refusal({.tensor_parallel_size = 1024, .pipeline_parallel_size = 2}),
              HasSubstr("= 2048 ranks, more than 1024"));
  EXPECT_THAT(refusal({.pipeline_parallel_size = 2, .pp_partition = {4}}),
              HasSubstr("an entry for each of the 2 pipeline stages"));
  EXPECT_EQ(
      Mapping::create({.tensor_parallel_size = 8}, 4).status().message(),
      "tensor_parallel_size 8 x pipeline_parallel_size 1 x context_parallel_size 1 = 8 ranks, "
      "but 4 were started");
  EXPECT_TRUE(Mapping::create({.tensor_parallel_size = 8}, 8).is_ok());
}

TEST(Mapping, StagesHaveConsecutiveLayers) {
  const Mapping even = mapped({.pipeline_parallel_size = 4});
  const auto bounds = [](const Mapping& mapping, int stage, int layers) {
    return std::pair(mapping.layers(stage, layers).begin, mapping.layers(stage, layers).end);
  };
  EXPECT_EQ(bounds(even, 0, 61), std::pair(0, 16));
  EXPECT_EQ(bounds(even, 1, 61), std::pair(16, 31));
  EXPECT_EQ(bounds(even, 3, 61), std::pair(46, 61));
  const Mapping uneven = mapped({.pipeline_parallel_size = 3, .pp_partition = {20, 21, 20}});
  EXPECT_EQ(bounds(uneven, 1, 61), std::pair(20, 41));
  EXPECT_EQ(bounds(uneven, 2, 61), std::pair(41, 61));
}

}  // namespace
}  // namespace wideep
