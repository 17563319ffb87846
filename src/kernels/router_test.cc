#include "kernels/router.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>

#include "kernels/kernels_testing.h"

namespace wideep::kernels {
namespace {

struct Routing {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Routing routed(RouterParams params, Stream& stream) {
  Routing result;
  result.ids.assign(params.logits.rows * params.top_k, -7);
  result.weights.assign(params.logits.rows * params.top_k, std::nanf(""));
  params.ids = result.ids.data();
  params.weights = result.weights.data();
  route(stream, params);
  return result;
}

Routing routed(const std::vector<float>& logits, RouterParams params) {
  TestStream stream(1);
  params.logits = matrix_view(logits.data(), 1, static_cast<int64_t>(logits.size()));
  return routed(params, stream);
}

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

// The `count` largest, ties to the smaller id, by sorting everything.
std::vector<int> largest_ids(const std::vector<double>& scores, int count) {
  std::vector<int> ids(scores.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int a, int b) { return scores[a] > scores[b]; });
  ids.resize(count);
  return ids;
}

// One token by the formulas, in double.
void expect_routing(const RouterParams& params, const float* logits, const int32_t* ids,
                    const float* weights) {
  const auto num_experts = static_cast<int>(params.logits.columns);
  std::vector<double> score(num_experts);
  std::vector<double> choice(num_experts);
  double total = 0;
  for (int e = 0; e < num_experts; ++e) total += std::exp(static_cast<double>(logits[e]));
  for (int e = 0; e < num_experts; ++e) {
    score[e] = params.scoring == RouterScoring::kSoftmax
                   ? std::exp(static_cast<double>(logits[e])) / total
                   : sigmoid(logits[e]);
    choice[e] = score[e];
  }
  if (params.scoring == RouterScoring::kSigmoidGroups) {
    const int size = num_experts / params.n_group;
    std::vector<double> group_scores;
    for (int e = 0; e < num_experts; ++e) choice[e] += params.bias != nullptr ? params.bias[e] : 0;
    for (int g = 0; g < params.n_group; ++g) {
      std::vector<double> members(choice.begin() + g * size, choice.begin() + (g + 1) * size);
      std::sort(members.rbegin(), members.rend());
      group_scores.push_back(members[0] + (size > 1 ? members[1] : 0));
    }
    const std::vector<int> kept = largest_ids(group_scores, params.topk_group);
    for (int e = 0; e < num_experts; ++e) {
      if (std::find(kept.begin(), kept.end(), e / size) == kept.end()) choice[e] = -INFINITY;
    }
  }
  const std::vector<int> expected = largest_ids(choice, params.top_k);
  double sum = 0;
  for (const int id : expected) sum += score[id];
  for (int k = 0; k < params.top_k; ++k) {
    ASSERT_EQ(ids[k], expected[k]) << "choice " << k;
    const double weight = score[expected[k]] / (params.normalize ? sum : 1) * params.scaling;
    ASSERT_NEAR(weights[k], weight, 2e-6 * weight);
  }
}

TEST(RouteTest, MatchesTheFormulas) {
  for_each_instruction_set([] {
    Random random(1);
    TestStream stream(3);
    for (int trial = 0; trial < 60; ++trial) {
      RouterParams params;
      params.scoring = static_cast<RouterScoring>(trial % 3);
      params.n_group = 1 << between(random, 0, 6);
      params.topk_group = between(random, 1, params.n_group);
      const int group_size = between(random, 1, std::min(40, kMaxRouterExperts / params.n_group));
      params.top_k = between(random, 1, std::min(16, params.topk_group * group_size));
      params.normalize = trial % 2 == 0;
      params.scaling = trial % 5 == 0 ? 2.5F : 1;
      const TestMatrix logits =
          random_matrix(random, between(random, 1, 60), params.n_group * group_size, trial % 4, 6);
      const std::vector<float> bias = random_floats(random, logits.columns, 0.1F);
      params.bias = trial % 4 != 0 ? bias.data() : nullptr;
      params.logits = logits.view();
      const Routing result = routed(params, stream);
      for (int64_t t = 0; t < logits.rows; ++t) {
        expect_routing(params, logits.row(t), result.ids.data() + t * params.top_k,
                       result.weights.data() + t * params.top_k);
      }
    }
  });
}

TEST(RouteTest, TiesGoToTheSmallerId) {
  const std::vector<float> equal(32, 0.25F);
  RouterParams params;
  params.top_k = 4;
  for (const RouterScoring scoring :
       {RouterScoring::kSoftmax, RouterScoring::kSigmoidOfTopK, RouterScoring::kSigmoidGroups}) {
    params.scoring = scoring;
    EXPECT_THAT(routed(equal, params).ids, testing::ElementsAre(0, 1, 2, 3));
  }
  // Groups of 4 with equal sums: the first two stay.
  params.n_group = 8;
  params.topk_group = 2;
  params.top_k = 6;
  EXPECT_THAT(routed(equal, params).ids, testing::ElementsAre(0, 1, 2, 3, 4, 5));
}

TEST(RouteTest, GroupsAreRankedByTheirTwoBest) {
  // Sums of the two best: group 0 has the best expert, group 1 the best pair.
  const std::vector<float> logits = {3, -9, -9, -9, 1, 1, -9, -9};
  RouterParams params;
  params.scoring = RouterScoring::kSigmoidGroups;
  params.n_group = 2;
  params.topk_group = 1;
  params.top_k = 2;
  EXPECT_THAT(routed(logits, params).ids, testing::ElementsAre(4, 5));
}

TEST(RouteTest, BiasChoosesButDoesNotWeigh) {
  const std::vector<float> logits = {0, 1, 2, 3};
  const std::vector<float> bias = {5, 0, 0, 0};
  RouterParams params;
  params.scoring = RouterScoring::kSigmoidGroups;
  params.bias = bias.data();
  params.top_k = 2;
  const Routing result = routed(logits, params);
  EXPECT_THAT(result.ids, testing::ElementsAre(0, 3));
  EXPECT_FLOAT_EQ(result.weights[0], 0.5F);
  EXPECT_FLOAT_EQ(result.weights[1], static_cast<float>(sigmoid(3)));
}

TEST(RouteTest, IdsStayInRangeForNan) {
  const std::vector<float> logits(16, std::nanf(""));
  RouterParams params;
  params.n_group = 4;
  params.topk_group = 2;
  params.top_k = 3;
  for (const RouterScoring scoring :
       {RouterScoring::kSoftmax, RouterScoring::kSigmoidOfTopK, RouterScoring::kSigmoidGroups}) {
    params.scoring = scoring;
    EXPECT_THAT(routed(logits, params).ids, testing::ElementsAre(0, 1, 2));
  }
}

TEST(RouteTest, NanIsTheLeast) {
  const std::vector<float> logits = {std::nanf(""), -2, std::nanf(""), 1};
  RouterParams params;
  params.top_k = 3;
  for (const RouterScoring scoring : {RouterScoring::kSoftmax, RouterScoring::kSigmoidOfTopK}) {
    params.scoring = scoring;
    const Routing result = routed(logits, params);
    EXPECT_THAT(result.ids, testing::ElementsAre(3, 1, 0));
    EXPECT_TRUE(std::isnan(result.weights[2])) << "and shows in what is computed from it";
  }
}

TEST(RouteTest, TokensThatFillUpGoNowhere) {
  Random random(9);
  TestStream stream(2);
  const TestMatrix logits = random_matrix(random, 7, 16);
  RouterParams params;
  params.logits = logits.view();
  params.top_k = 3;
  const Routing all = routed(params, stream);
  const int num_tokens = 4;
  params.num_tokens = &num_tokens;
  const Routing result = routed(params, stream);
  for (int pair = 0; pair < 7 * 3; ++pair) {
    EXPECT_EQ(result.ids[pair], pair < 4 * 3 ? all.ids[pair] : -1);
    EXPECT_EQ(result.weights[pair], pair < 4 * 3 ? all.weights[pair] : 0);
  }
}

TEST(RouteTest, NoTokens) {
  TestStream stream(2);
  RouterParams params;
  params.logits = TestMatrix(0, 8).view();
  params.top_k = 2;
  EXPECT_TRUE(routed(params, stream).ids.empty());
}

}  // namespace
}  // namespace wideep::kernels
