#include "kernels/sampling.h"

#include <algorithm>
#include <set>

#include "kernels/kernels_testing.h"
#include "kernels/sampling_testing.h"

namespace wideep::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

int sampled(const std::vector<float>& logits, const SamplingParams& sampling,
            int64_t position = 0) {
  TestStream stream(1);
  const std::vector<SampleRequest> requests = {{sampling, position}};
  return sample_now(stream, matrix_view(logits.data(), 1, std::ssize(logits)), requests)[0];
}

// Shares of the tokens over many positions.
std::vector<double> shares(const std::vector<float>& logits, const SamplingParams& sampling) {
  constexpr int kDraws = 20000;
  std::vector<double> result(logits.size());
  for (int position = 0; position < kDraws; ++position) {
    result[sampled(logits, sampling, position)] += 1.0 / kDraws;
  }
  return result;
}

void expect_shares(const std::vector<double>& actual, const std::vector<double>& expected) {
  for (size_t id = 0; id < expected.size(); ++id) {
    EXPECT_NEAR(actual[id], expected[id], 0.015) << "token " << id;
    EXPECT_TRUE(expected[id] > 0 || actual[id] == 0) << "token " << id;
  }
}

std::vector<float> logs(const std::vector<double>& probabilities) {
  std::vector<float> result;
  for (const double p : probabilities) result.push_back(static_cast<float>(std::log(p)));
  return result;
}

TEST(SampleTest, GreedyTakesTheLargestAndTheSmallerIdOfTwo) {
  EXPECT_EQ(sampled({1, 5, 2, 5}, {}), 1);
  EXPECT_EQ(sampled({-kInfinity, -3, std::nanf(""), kInfinity}, {}), 1);
}

TEST(SampleTest, WithoutAFiniteLogit) {
  for (const float temperature : {0.0F, 1.0F}) {
    EXPECT_EQ(sampled({-kInfinity, kInfinity, std::nanf("")}, {.temperature = temperature}), -1);
  }
}

TEST(SampleTest, FollowsTheProbabilities) {
  const std::vector<float> logits = logs({0.1, 0.2, 0.3, 0.4});
  expect_shares(shares(logits, {.temperature = 1}), {0.1, 0.2, 0.3, 0.4});
  // Halving the temperature squares the probabilities.
  expect_shares(shares(logits, {.temperature = 0.5F}), {1 / 30.0, 4 / 30.0, 9 / 30.0, 16 / 30.0});
}

TEST(SampleTest, NeverTakesWhatIsNotFinite) {
  const std::vector<float> logits = {0, -kInfinity, 0, std::nanf(""), kInfinity};
  expect_shares(shares(logits, {.temperature = 1}), {0.5, 0, 0.5, 0, 0});
  expect_shares(shares(logits, {.temperature = 1, .top_k = 4}), {0.5, 0, 0.5, 0, 0});
}

TEST(SampleTest, TopKKeepsTheLargestTiesToTheSmallerId) {
  const std::vector<float> logits = logs({0.1, 0.4, 0.1, 0.1, 0.3});
  expect_shares(shares(logits, {.temperature = 1, .top_k = 3}), {0.125, 0.5, 0, 0, 0.375});
  expect_shares(shares(logits, {.temperature = 3, .top_k = 1}), {0, 1, 0, 0, 0});
}

TEST(SampleTest, TopPKeepsTheFewestThatReachIt) {
  const std::vector<float> logits = logs({0.1, 0.2, 0.3, 0.4});
  expect_shares(shares(logits, {.temperature = 1, .top_p = 0.69F}), {0, 0, 3 / 7.0, 4 / 7.0});
  expect_shares(shares(logits, {.temperature = 1, .top_p = 0.71F}), {0, 2 / 9.0, 3 / 9.0, 4 / 9.0});
  expect_shares(shares(logits, {.temperature = 1, .top_p = 0}), {0, 0, 0, 1});
}

TEST(SampleTest, TopPIsAShareOfWhatTopKLeft) {
  const std::vector<float> logits = logs({0.1, 0.2, 0.3, 0.4});
  // Of 0.4, 0.3 and 0.2: 7 / 9 of them are two tokens.
  expect_shares(shares(logits, {.temperature = 1, .top_k = 3, .top_p = 0.77F}),
                {0, 0, 3 / 7.0, 4 / 7.0});
}

// A flat distribution over a large vocabulary needs more than the first tokens that are sorted.
TEST(SampleTest, TopPOfManyTokens) {
  Random random(1);
  const std::vector<float> logits = random_floats(random, 5000, 0.5F);
  std::vector<int> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  std::sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  double total = 0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit));
  double sum = 0;
  size_t kept = 0;
  while (sum < 0.6 * total) sum += std::exp(static_cast<double>(logits[order[kept++]]));
  const std::set<int> allowed(order.begin(), order.begin() + static_cast<int64_t>(kept) + 1);
  std::set<int> seen;
  for (int position = 0; position < 2000; ++position) {
    const int token = sampled(logits, {.temperature = 1, .top_p = 0.6F}, position);
    ASSERT_TRUE(allowed.contains(token));
    seen.insert(token);
  }
  EXPECT_GT(seen.size(), 1000);
}

TEST(SampleTest, ExtremeTemperatures) {
  const std::vector<float> logits = {1, 3, 2};
  EXPECT_EQ(sampled(logits, {.temperature = 1e-45F}), 1);
  EXPECT_EQ(sampled(logits, {.temperature = 1e-45F, .top_p = 0.5F}), 1);
  for (const float temperature : {1e30F, kInfinity}) {
    expect_shares(shares(logits, {.temperature = temperature}), {1 / 3.0, 1 / 3.0, 1 / 3.0});
  }
}

TEST(SampleTest, DependsOnSeedAndPositionOnly) {
  Random random(2);
  const TestMatrix logits = random_matrix(random, 40, 300, 3);
  std::vector<SampleRequest> requests;
  for (int r = 0; r < 40; ++r) {
    requests.push_back({{.temperature = 1,
                         .top_k = r % 3 * 20,
                         .top_p = r % 2 == 0 ? 1 : 0.9F,
                         .seed = static_cast<uint64_t>(r)},
                        r * 7});
  }
  TestStream stream(4);
  const std::vector<int> together = sample_now(stream, logits.view(), requests);
  for (int r = 0; r < 40; ++r) {
    const std::vector<float> row(logits.row(r), logits.row(r) + 300);
    EXPECT_EQ(sampled(row, requests[r].sampling, requests[r].position), together[r]);
  }
  EXPECT_GT(std::set<int>(together.begin(), together.end()).size(), 10);
}

TEST(SampleTest, NoRows) {
  TestStream stream(2);
  EXPECT_TRUE(sample_now(stream, TestMatrix(0, 8).view(), {}).empty());
}

TEST(SamplerTest, TakesBatchesInTheirOrder) {
  TestStream stream(1);
  const auto sampler = Sampler::create(stream, 3).value();
  const int* const place = sampler->tokens();
  TestMatrix logits(3, 5);
  for (int r = 0; r < 3; ++r) logits.row(r)[r + 2] = 1;
  const std::vector<SampleRequest> requests(3);
  sampler->start(stream, logits.view(), requests);
  sampler->start(stream, logits.view().row_range(1, 1), std::span(requests).first(1));
  EXPECT_EQ(sampler->tokens(), place);
  EXPECT_EQ(place[0], 3);
  std::vector<int> tokens(3);
  sampler->take(stream, tokens);
  EXPECT_EQ(tokens, std::vector({2, 3, 4}));
  tokens.resize(1);
  sampler->take(stream, tokens);
  EXPECT_EQ(tokens, std::vector({3}));
}

TEST(SamplerTest, SampledIdsTakeTheirTokens) {
  TestStream stream(1);
  const std::vector<int> sampled = {7, -1, 9};
  std::vector<int> ids = {5, id_of_sampled(2), id_of_sampled(1), 0, id_of_sampled(0)};
  take_sampled(stream, sampled.data(), ids);
  EXPECT_EQ(ids, std::vector({5, 9, 0, 0, 7}));
}

}  // namespace
}  // namespace wideep::kernels
