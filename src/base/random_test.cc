#include "base/random.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace wideep {
namespace {

using testing::ElementsAre;

std::vector<uint64_t> first_three(Random random) {
  return {random.next(), random.next(), random.next()};
}

// The probability of k successes.
double binomial_probability(int64_t n, double p, int64_t k) {
  const double nn = static_cast<double>(n);
  const double kk = static_cast<double>(k);
  return std::exp(std::lgamma(nn + 1) - std::lgamma(kk + 1) - std::lgamma(nn - kk + 1) +
                  kk * std::log(p) + (nn - kk) * std::log1p(-p));
}

// Pearson's statistic of `samples` draws against the exact distribution, over its degrees of
// freedom; outcomes expected fewer than ten times are pooled. Near 1 for a right sampler.
double binomial_chi_square(int64_t n, double p, int samples) {
  Random random(11, {static_cast<uint64_t>(n)});
  std::vector<int> seen(static_cast<size_t>(n) + 1);
  for (int i = 0; i < samples; ++i) ++seen[static_cast<size_t>(random.binomial(n, p))];
  double statistic = 0;
  double pooled_expected = 0;
  double pooled_seen = 0;
  int cells = 0;
  const auto add_cell = [&](double expected, double count) {
    statistic += (count - expected) * (count - expected) / expected;
    ++cells;
  };
  for (int64_t k = 0; k <= n; ++k) {
    const double expected = samples * binomial_probability(n, p, k);
    if (expected >= 10) {
      add_cell(expected, seen[static_cast<size_t>(k)]);
    } else {
      pooled_expected += expected;
      pooled_seen += seen[static_cast<size_t>(k)];
    }
  }
  if (pooled_expected >= 1) add_cell(pooled_expected, pooled_seen);
  return statistic / (cells - 1);
}

// Values from an independent implementation of splitmix64 and xoshiro256++.
TEST(RandomTest, GoldenValues) {
  EXPECT_THAT(first_three(Random(0)),
              ElementsAre(0x53175d61490b23dfu, 0x61da6f3dc380d507u, 0x5c0fdf91ec9a7bfcu));
  EXPECT_THAT(first_three(Random(42)),
              ElementsAre(0xd0764d4f4476689fu, 0x519e4174576f3791u, 0xfbe07cfb0c24ed8cu));
  EXPECT_THAT(first_three(Random(42, {1, 2, 3})),
              ElementsAre(0xe0ac15b0ed6a54a9u, 0xecf098c1fc4321f5u, 0x0a9d4a57febfc032u));
}

TEST(RandomTest, CoordinatesMakeIndependentStreams) {
  EXPECT_NE(first_three(Random(1, {2})), first_three(Random(1, {3})));
  EXPECT_NE(first_three(Random(1, {2})), first_three(Random(2, {2})));
  EXPECT_NE(first_three(Random(1, {2, 3})), first_three(Random(1, {3, 2})));
  EXPECT_NE(first_three(Random(1, {0})), first_three(Random(1)));
  EXPECT_EQ(first_three(Random(1, {2, 3})), first_three(Random(1, {2, 3})));
}

TEST(RandomTest, UniformFillsTheUnitInterval) {
  Random random(3);
  double sum = 0;
  double smallest = 1;
  double largest = 0;
  for (int i = 0; i < 100000; ++i) {
    const double x = random.uniform();
    sum += x;
    smallest = std::min(smallest, x);
    largest = std::max(largest, x);
  }
  EXPECT_GE(smallest, 0);
  EXPECT_LT(largest, 1);
  EXPECT_LT(smallest, 1e-3);
  EXPECT_GT(largest, 1 - 1e-3);
  EXPECT_NEAR(sum / 100000, 0.5, 5 * std::sqrt(1.0 / 12 / 100000));
}

TEST(RandomTest, BelowIsUniform) {
  Random random(4);
  EXPECT_EQ(random.below(1), 0u);
  EXPECT_LT(random.below(UINT64_MAX), UINT64_MAX);
  std::vector<int> seen(10);
  for (int i = 0; i < 100000; ++i) ++seen[random.below(10)];
  for (const int count : seen) EXPECT_NEAR(count, 10000, 5 * std::sqrt(9000));
}

TEST(RandomTest, BinomialEdges) {
  Random random(5);
  EXPECT_EQ(random.binomial(0, 0.5), 0);
  EXPECT_EQ(random.binomial(10, 0), 0);
  EXPECT_EQ(random.binomial(10, 1), 10);
  EXPECT_EQ(random.binomial(10, -1e-18), 0);  // what a rounded remainder may be
  EXPECT_EQ(random.binomial(10, 1 + 1e-15), 10);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(random.binomial(1000000, 1e-18), 0);
}

// 2.5 times the degrees of freedom is beyond a chance of 1e-5 for every case here.
TEST(RandomTest, BinomialHasTheExactDistribution) {
  EXPECT_LT(binomial_chi_square(8, 0.3, 100000), 2.5);    // by gaps
  EXPECT_LT(binomial_chi_square(30, 0.7, 100000), 2.5);   // by gaps of the failures
  EXPECT_LT(binomial_chi_square(24, 0.45, 100000), 2.5);  // by rejection, at its smallest mean
  EXPECT_LT(binomial_chi_square(200, 0.1, 100000), 2.5);  // by rejection
  EXPECT_LT(binomial_chi_square(400, 0.8, 100000), 2.5);
}

TEST(RandomTest, BinomialMoments) {
  struct Case {
    int64_t n;
    double p;
  };
  for (const auto& [n, p] : {Case{5, 0.01}, Case{1000, 0.004}, Case{4096, 0.03}, Case{1000000, 0.5},
                             Case{1000000000, 0.9}}) {
    constexpr int kSamples = 20000;
    Random random(6, {static_cast<uint64_t>(n)});
    const double mean = static_cast<double>(n) * p;
    const double variance = mean * (1 - p);
    double sum = 0;
    double sum_of_squares = 0;
    for (int i = 0; i < kSamples; ++i) {
      const int64_t k = random.binomial(n, p);
      ASSERT_GE(k, 0);
      ASSERT_LE(k, n);
      const double deviation = static_cast<double>(k) - mean;
      sum += deviation;
      sum_of_squares += deviation * deviation;
    }
    EXPECT_NEAR(sum / kSamples, 0, 5 * std::sqrt(variance / kSamples)) << n << ' ' << p;
    // The spread of a sample variance grows for rare events: kurtosis 3 + 1 / variance.
    const double spread = variance * std::sqrt((2 + 1 / variance) / kSamples);
    EXPECT_NEAR(sum_of_squares / kSamples, variance, 5 * spread) << n << ' ' << p;
  }
}

}  // namespace
}  // namespace wideep
