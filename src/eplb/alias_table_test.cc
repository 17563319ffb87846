#include "eplb/alias_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "eplb/eplb_testing.h"

namespace wideep::eplb {
namespace {

TEST(AliasTable, FrequenciesFollowTheLoad) {
  Random random(1);
  for (const int num_experts : {1, 2, 7, 64, 300}) {
    std::vector<int64_t> tokens = random_tokens(random, num_experts);
    tokens[0] = 1000;
    const auto total =
        static_cast<double>(std::accumulate(tokens.begin(), tokens.end(), int64_t{0}));
    const AliasTable table(tokens);
    constexpr int kDraws = 100'000;
    std::vector<double> drawn(tokens.size());
    for (int i = 0; i < kDraws; ++i) drawn[static_cast<size_t>(table.draw(random))] += 1;
    for (size_t e = 0; e < tokens.size(); ++e) {
      const double p = static_cast<double>(tokens[e]) / total;
      // 6 standard deviations, and exactly 0 without load.
      EXPECT_NEAR(drawn[e], kDraws * p, 6 * std::sqrt(kDraws * p * (1 - p))) << e;
    }
  }
}

TEST(AliasTable, OneHotExpertOfLargeCounts) {
  const AliasTable table(std::vector<int64_t>{0, int64_t{1} << 50, 0, 1});
  Random random(2);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(table.draw(random), 1);
}

}  // namespace
}  // namespace wideep::eplb
