#include "kernels/router.h"

#include "kernels/cuda_testing.h"

namespace wideep::kernels {
namespace {

constexpr RouterScoring kScorings[] = {RouterScoring::kSigmoidGroups, RouterScoring::kSoftmax,
                                       RouterScoring::kSigmoidOfTopK};

class RouterCudaTest : public CudaTest {
 protected:
  // The same experts on both devices, and the same weights: to the bit where no sum over all
  // experts is in them.
  void expect_as_cpu(RouterParams params, const TestMatrix& logits,
                     const std::vector<float>& bias) {
    const auto count = static_cast<size_t>(logits.rows * params.top_k);
    std::vector<int32_t> ids(count, -7);
    std::vector<float> weights(count, std::nanf(""));
    const DeviceVector<int32_t> device_ids(ids);
    const DeviceVector<float> device_weights(weights);
    const DeviceVector<float> device_bias(bias);
    const DeviceMatrix device_logits(logits, DType::kF32);
    params.logits = logits.view();
    params.bias = bias.empty() ? nullptr : bias.data();
    params.ids = ids.data();
    params.weights = weights.data();
    route(cpu(), params);
    params.logits = device_logits.view();
    params.bias = bias.empty() ? nullptr : device_bias.data();
    params.ids = device_ids.data();
    params.weights = device_weights.data();
    const DeviceVector<int> num_tokens(
        std::vector<int>{params.num_tokens != nullptr ? *params.num_tokens : 0});
    if (params.num_tokens != nullptr) params.num_tokens = num_tokens.data();
    route(stream(), params);
    ASSERT_EQ(device_ids.host(), ids);
    const std::vector<float> actual = device_weights.host();
    const bool is_exact = params.scoring != RouterScoring::kSoftmax;
    for (size_t i = 0; i < count; ++i) {
      if (std::isnan(weights[i])) {
        ASSERT_TRUE(std::isnan(actual[i])) << "pair " << i;
      } else {
        ASSERT_NEAR(actual[i], weights[i], is_exact ? 0 : 2e-6 * weights[i]) << "pair " << i;
      }
    }
  }
};

TEST_F(RouterCudaTest, ChoosesTheCpusExperts) {
  for (int trial = 0; trial < 90; ++trial) {
    RouterParams params;
    params.scoring = kScorings[trial % 3];
    params.n_group = 1 << between(random_, 0, 6);
    params.topk_group = between(random_, 1, params.n_group);
    const int group_size = between(random_, 1, kMaxRouterExperts / params.n_group);
    params.top_k = between(random_, 1, std::min(kMaxRouterTopK, params.topk_group * group_size));
    params.normalize = trial % 2 == 0;
    params.scaling = trial % 4 == 0 ? 2.5F : 1;
    const int num_experts = params.n_group * group_size;
    const TestMatrix logits =
        random_matrix(random_, between(random_, 0, 70), num_experts, 3, trial % 5 == 0 ? 60 : 4);
    const std::vector<float> bias =
        trial % 4 != 0 ? random_floats(random_, num_experts, 0.1F) : std::vector<float>();
    SCOPED_TRACE(testing::Message() << "trial " << trial << ": " << num_experts << " experts, "
                                    << params.n_group << " groups");
    expect_as_cpu(params, logits, bias);
  }
}

TEST_F(RouterCudaTest, ShapesOfTheModels) {
  for (const auto& [tokens, experts, groups, kept, top_k] : {std::tuple{1, 256, 8, 4, 8},
                                                             {3000, 256, 8, 4, 8},
                                                             {500, 128, 1, 1, 8},
                                                             {500, 16, 1, 1, 1}}) {
    RouterParams params;
    params.n_group = groups;
    params.topk_group = kept;
    params.top_k = top_k;
    params.normalize = true;
    const TestMatrix logits = random_matrix(random_, tokens, experts, 0, 3);
    for (const RouterScoring scoring : kScorings) {
      params.scoring = scoring;
      expect_as_cpu(params, logits, random_floats(random_, experts, 0.2F));
    }
  }
}

TEST_F(RouterCudaTest, TokensThatFillUpGoNowhere) {
  const TestMatrix logits = random_matrix(random_, 100, 64);
  for (const int num_tokens : {0, 1, 63, 100}) {
    RouterParams params;
    params.top_k = 6;
    params.num_tokens = &num_tokens;
    for (const RouterScoring scoring : kScorings) {
      params.scoring = scoring;
      expect_as_cpu(params, logits, {});
    }
  }
}

// Few distinct logits, zeros of both signs: nearly everything is a tie.
TEST_F(RouterCudaTest, TiesGoToTheSmallerId) {
  TestMatrix logits(200, 96);
  for (float& value : logits.values) value = static_cast<float>(between(random_, -1, 1)) * 0.5F;
  for (float& value : logits.values) {
    if (value == 0 && between(random_, 0, 1) == 0) value = -0.0F;
  }
  RouterParams params;
  params.n_group = 8;
  params.topk_group = 3;
  params.top_k = 12;
  for (const RouterScoring scoring : kScorings) {
    params.scoring = scoring;
    expect_as_cpu(params, logits, {});
  }
}

TEST_F(RouterCudaTest, LogitsThatAreNotFinite) {
  TestMatrix logits = random_matrix(random_, 100, 64);
  const float odd[] = {std::nanf(""), -INFINITY, 300, -300};
  for (float& value : logits.values) {
    if (between(random_, 0, 9) == 0) value = odd[between(random_, 0, 3)];
  }
  std::fill_n(logits.row(7), 64, std::nanf(""));
  RouterParams params;
  params.n_group = 4;
  params.topk_group = 2;
  params.top_k = 6;
  for (const RouterScoring scoring : kScorings) {
    params.scoring = scoring;
    expect_as_cpu(params, logits, {});
  }
}

}  // namespace
}  // namespace wideep::kernels
