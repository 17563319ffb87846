#include "moe/bench_routing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <span>
#include <vector>

#include "base/file_testing.h"
#include "base/npy.h"
#include "base/random.h"
#include "base/share.h"

namespace wideep::moe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::string kLoad =
    WIDEEP_SOURCE_DIR "/data/sample_load.json";  // layers 3 to 60, 256 experts

BenchRoutingOptions options_of(const std::string& skew, int num_experts, int top_k) {
  BenchRoutingOptions options;
  options.skew = skew;
  options.num_experts = num_experts;
  options.top_k = top_k;
  options.num_ranks = 4;
  options.layers = {3, 5};
  return options;
}

std::vector<int64_t> counts_of(const std::vector<int32_t>& experts, int num_experts) {
  std::vector<int64_t> counts(static_cast<size_t>(num_experts));
  for (const int32_t expert : experts) ++counts[static_cast<size_t>(expert)];
  return counts;
}

void expect_distinct(const std::vector<int32_t>& experts, int top_k) {
  for (size_t first = 0; first < experts.size(); first += static_cast<size_t>(top_k)) {
    const auto token = std::span(experts).subspan(first, static_cast<size_t>(top_k));
    EXPECT_EQ(std::set<int32_t>(token.begin(), token.end()).size(), token.size());
  }
}

TEST(BenchRouting, DrawsTheSameForTheSamePlaceOnly) {
  const BenchRouting routing = BenchRouting::create(options_of("uniform", 32, 4)).value();
  const BenchRouting::Batch drawn = routing.draw(2, 1, 50).value();
  ASSERT_EQ(drawn.size(), 2U);
  for (const auto& layer : drawn) {
    ASSERT_EQ(layer.size(), 200U);
    expect_distinct(layer, 4);
  }
  EXPECT_EQ(routing.draw(2, 1, 50).value(), drawn);
  EXPECT_NE(routing.draw(3, 1, 50).value(), drawn);
  EXPECT_NE(routing.draw(2, 0, 50).value(), drawn);
  EXPECT_NE(drawn[0], drawn[1]);
  EXPECT_TRUE(routing.recorded_layers().empty());
}

TEST(BenchRouting, ZipfFollowsItsExponentInALayersOwnOrder) {
  const BenchRouting routing = BenchRouting::create(options_of("zipf:0.5", 64, 2)).value();
  const eplb::Load& load = routing.workload().load;
  EXPECT_THAT(load.layers, ElementsAre(3, 5));
  std::vector<int64_t> first(load.row(0).begin(), load.row(0).end());
  EXPECT_FALSE(std::ranges::equal(load.row(0), load.row(1)));
  std::ranges::sort(first, std::greater<>());
  for (size_t i = 0; i < first.size(); ++i) {
    const double expected = static_cast<double>(first[0]) / std::sqrt(static_cast<double>(i + 1));
    EXPECT_NEAR(static_cast<double>(first[i]), expected, 1);
  }
  // The drawn tokens have the load's shares: 60,000 draws, five standard deviations.
  const std::vector<int64_t> counts =
      counts_of(routing.draw(0, 0, 30000).value()[0], load.num_experts);
  const double total = std::accumulate(first.begin(), first.end(), 0.0);
  for (int e = 0; e < load.num_experts; ++e) {
    const double expected = 60000 * static_cast<double>(load.row(0)[e]) / total;
    EXPECT_NEAR(static_cast<double>(counts[e]), expected, 5 * std::sqrt(expected));
  }
}

TEST(BenchRouting, TakesRecordedLayersAtEvenDistancesOrThoseAskedFor) {
  BenchRoutingOptions options = options_of(kLoad, 256, 8);
  EXPECT_THAT(BenchRouting::create(options).value().recorded_layers(), ElementsAre(17, 46));
  options.skew_layers = {60, 3};
  const BenchRouting routing = BenchRouting::create(options).value();
  EXPECT_THAT(routing.recorded_layers(), ElementsAre(60, 3));
  EXPECT_THAT(routing.workload().load.layers, ElementsAre(3, 5)) << "the model's";
  options.skew_layers = {3, 60};
  const BenchRouting swapped = BenchRouting::create(options).value();
  EXPECT_TRUE(std::ranges::equal(routing.workload().load.row(0), swapped.workload().load.row(1)));
}

TEST(BenchRouting, RecordedTokensKeepTheirExperts) {
  const TemporaryFolder folder;
  // Three tokens of 3 layers and 2 experts each; the last token is not routed in layer 1.
  const std::vector<uint8_t> ids = {0,  1,  10, 11, 20, 21,  2,   3,  12,
                                    13, 22, 23, 4,  5,  255, 255, 24, 25};
  const std::string path = folder / "trace.npy";
  ASSERT_TRUE(write_npy(path, DType::kU8, {3, 3, 2}, std::as_bytes(std::span(ids))).is_ok());
  BenchRoutingOptions options = options_of(path, 32, 2);
  options.skew_layers = {0, 1};
  const BenchRouting routing = BenchRouting::create(options).value();
  EXPECT_EQ(routing.workload().load.num_experts, 32);
  EXPECT_FALSE(routing.workload().batches.empty());
  std::set<std::vector<int32_t>> first, second;
  for (int rank = 0; rank < 4; ++rank) {
    const BenchRouting::Batch drawn = routing.draw(0, rank, 40).value();
    ASSERT_EQ(drawn[0].size(), 80U);
    for (size_t at = 0; at < 80; at += 2) {
      first.insert({drawn[0][at], drawn[0][at + 1]});
      second.insert({drawn[1][at], drawn[1][at + 1]});
      EXPECT_EQ(drawn[0][at] == 4, drawn[1][at] == -1) << "one token in both layers";
    }
  }
  EXPECT_THAT(first, ElementsAre(ElementsAre(0, 1), ElementsAre(2, 3), ElementsAre(4, 5)));
  EXPECT_THAT(second, ElementsAre(ElementsAre(-1, -1), ElementsAre(10, 11), ElementsAre(12, 13)));
}

TEST(BenchRouting, RefusesWhatDoesNotFit) {
  const auto error = [](BenchRoutingOptions options) {
    return BenchRouting::create(std::move(options)).status().message();
  };
  EXPECT_THAT(error(options_of("zipf:x", 64, 4)), HasSubstr("--skew zipf:x: must be zipf:S"));
  EXPECT_THAT(error(options_of("zipf:-1", 64, 4)), HasSubstr("S in 0 to 10"));
  EXPECT_THAT(error(options_of("/none.json", 64, 4)), HasSubstr("/none.json"));
  EXPECT_THAT(error(options_of(kLoad, 64, 4)), HasSubstr("256 experts: the model has 64"));
  BenchRoutingOptions options = options_of("uniform", 64, 4);
  options.skew_layers = {1, 2};
  EXPECT_THAT(error(options), HasSubstr("--skew_layers: --skew uniform has no recorded layers"));
  options = options_of(kLoad, 256, 8);
  options.skew_layers = {5};
  EXPECT_THAT(error(options), HasSubstr("--skew_layers: 1 layers: --layers is 2"));
  options.skew_layers = {5, 61};
  EXPECT_THAT(error(options), HasSubstr("--skew_layers 61: "));
  const TemporaryFolder folder;
  const std::vector<uint8_t> ids = {0, 1, 2};
  const std::string path = folder / "trace.npy";
  ASSERT_TRUE(write_npy(path, DType::kU8, {1, 1, 3}, std::as_bytes(std::span(ids))).is_ok());
  EXPECT_THAT(error(options_of(path, 32, 2)), HasSubstr("3 experts a token: the model has 2"));
}

// Every rank, and every expert among those of its rank, has the same rows to within one.
TEST(BalancedExperts, LoadRanksAndExpertsEqually) {
  Random random(1);
  for (int round = 0; round < 60; ++round) {
    BenchRoutingOptions options;
    options.num_ranks = 1 + static_cast<int>(random.below(9));
    options.top_k = 1 + static_cast<int>(random.below(8));
    options.num_experts =
        4 * options.top_k + options.num_ranks + static_cast<int>(random.below(60));
    const int tokens = 1 + static_cast<int>(random.below(40));
    std::vector<int64_t> counts(static_cast<size_t>(options.num_experts));
    for (int rank = 0; rank < options.num_ranks; ++rank) {
      const std::vector<int32_t> experts = balanced_experts(options, round, rank, tokens);
      ASSERT_EQ(experts.size(), static_cast<size_t>(tokens * options.top_k));
      expect_distinct(experts, options.top_k);
      EXPECT_EQ(balanced_experts(options, round, rank, tokens), experts);
      for (const int32_t expert : experts) ++counts[expert];
    }
    for (int rank = 0; rank < options.num_ranks; ++rank) {
      const Share own = share_of(options.num_experts, options.num_ranks, rank);
      const auto [least, most] =
          std::minmax_element(counts.begin() + own.begin, counts.begin() + own.end);
      EXPECT_LE(*most - *least, 1);
      EXPECT_EQ(std::accumulate(counts.begin() + own.begin, counts.begin() + own.end, int64_t{0}),
                tokens * options.top_k);
    }
  }
}

}  // namespace
}  // namespace wideep::moe
