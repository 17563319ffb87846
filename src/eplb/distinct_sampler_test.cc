#include "eplb/distinct_sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "base/file_testing.h"
#include "eplb/eplb_testing.h"

namespace wideep::eplb {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

constexpr double kRounding = 1e-11;

TEST(DistinctSampler, InclusionFollowsTheLoad) {
  const auto even = DistinctSampler::create(std::vector<int64_t>{5, 5, 5, 5}, 2).value();
  EXPECT_THAT(even.inclusion_probabilities(), ::testing::Each(DoubleNear(0.5, kRounding)));
  const auto skewed = DistinctSampler::create(std::vector<int64_t>{30, 0, 10, 20}, 2).value();
  EXPECT_THAT(
      skewed.inclusion_probabilities(),
      ElementsAre(1.0, 0.0, DoubleNear(1.0 / 3, kRounding), DoubleNear(2.0 / 3, kRounding)));
  // 90 of 100 with top 3: certain; then 8 of 10 with top 2: certain; 1 and 1 share the third.
  const auto hot = DistinctSampler::create(std::vector<int64_t>{90, 8, 1, 1}, 3).value();
  EXPECT_THAT(hot.inclusion_probabilities(),
              ElementsAre(1.0, 1.0, DoubleNear(0.5, kRounding), DoubleNear(0.5, kRounding)));
}

TEST(DistinctSampler, AllExpertsWhereTopKIsAll) {
  const auto sampler = DistinctSampler::create(std::vector<int64_t>{7, 0, 1, 100}, 3).value();
  Random random(1);
  std::vector<int32_t> ids(6);
  sampler.draw(random, 2, ids);
  EXPECT_THAT(std::vector<int32_t>(ids.begin(), ids.begin() + 3), UnorderedElementsAre(0, 2, 3));
  EXPECT_THAT(std::vector<int32_t>(ids.begin() + 3, ids.end()), UnorderedElementsAre(0, 2, 3));
}

TEST(DistinctSampler, NeedsEnoughExperts) {
  EXPECT_EQ(error_of(DistinctSampler::create(std::vector<int64_t>{1, 0, 3}, 3)),
            "2 experts have load, too few to give a token 3");
}

TEST(DistinctSampler, TokensHaveDifferentExpertsThatHaveLoad) {
  Random random(2);
  for (int round = 0; round < 200; ++round) {
    const int num_experts = 1 + static_cast<int>(random.below(300));
    const std::vector<int64_t> tokens = random_tokens(random, num_experts);
    const auto loaded =
        std::count_if(tokens.begin(), tokens.end(), [](int64_t t) { return t > 0; });
    if (loaded == 0) continue;
    const int top_k =
        1 + static_cast<int>(random.below(static_cast<uint64_t>(std::min<int64_t>(loaded, 16))));
    const auto sampler = DistinctSampler::create(tokens, top_k).value();
    const auto probabilities = sampler.inclusion_probabilities();
    EXPECT_NEAR(std::accumulate(probabilities.begin(), probabilities.end(), 0.0), top_k, 1e-9);
    std::vector<int32_t> ids(static_cast<size_t>(20 * top_k));
    sampler.draw(random, 20, ids);
    for (auto at = ids.begin(); at != ids.end(); at += top_k) {
      EXPECT_EQ(std::set<int32_t>(at, at + top_k).size(), static_cast<size_t>(top_k));
    }
    for (const int32_t id : ids) EXPECT_GT(tokens[static_cast<size_t>(id)], 0);
  }
}

TEST(DistinctSampler, FrequenciesMatchInclusion) {
  Random random(3);
  const std::vector<int64_t> tokens = random_tokens(random, 64);
  const auto sampler = DistinctSampler::create(tokens, 6).value();
  const auto probabilities = sampler.inclusion_probabilities();
  constexpr int kTokens = 40'000;
  std::vector<int32_t> ids(kTokens * 6);
  sampler.draw(random, kTokens, ids);
  std::vector<double> drawn(64);
  for (const int32_t id : ids) drawn[static_cast<size_t>(id)] += 1.0 / kTokens;
  // Systematic draws vary at most as independent ones; 6 standard deviations.
  for (size_t e = 0; e < 64; ++e) {
    const double p = probabilities[e];
    EXPECT_NEAR(drawn[e], p, 6 * std::sqrt(p * (1 - p) / kTokens) + 1e-9) << e;
  }
}

TEST(DistinctSampler, EveryPairOccurs) {
  const auto sampler = DistinctSampler::create(std::vector<int64_t>(6, 10), 2).value();
  Random random(4);
  std::vector<int32_t> ids(2 * 2000);
  sampler.draw(random, 2000, ids);
  std::set<std::pair<int, int>> pairs;
  for (size_t i = 0; i < ids.size(); i += 2) pairs.insert(std::minmax(ids[i], ids[i + 1]));
  EXPECT_EQ(pairs.size(), 15u);
}

}  // namespace
}  // namespace wideep::eplb
