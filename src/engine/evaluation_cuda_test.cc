// The references of the CPU as judges of the GPU. Ranks beyond the number of GPUs share them.

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/device.h"
#include "engine/evaluation_testing.h"
#include "eplb/types.h"

namespace wideep::engine {
namespace {

class EvaluationCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    const DeviceReport report = device_report();
    if (report.devices.empty()) GTEST_SKIP() << report.problem;
  }
};

int num_gpus() {
  return static_cast<int>(device_report().devices.size());
}

Layout on_gpu(Layout layout = {}) {
  layout.device = DeviceKind::kCuda;
  return layout;
}

constexpr Tolerance kFp32 = {.greedy_margin = 0.1};

TEST_F(EvaluationCudaTest, InFp32MatchesTheReferences) {
  for (const Fixture& fixture : {kDeepSeek, kQwen3, kLlama4}) {
    SCOPED_TRACE(fixture.folder);
    expect_reference(fixture, on_gpu(), kFp32);
  }
}

TEST_F(EvaluationCudaTest, WithGraphsMatchesTheReferences) {
  Layout layout = on_gpu();
  layout.uses_graphs = true;
  for (const Fixture& fixture : {kDeepSeek, kQwen3, kLlama4}) {
    SCOPED_TRACE(fixture.folder);
    expect_reference(fixture, layout, kFp32);
  }
}

// Differences of the mean negative log-likelihood, of prompts that are long enough for it to mean
// something.
void expect_nll(const Fixture& fixture, const Layout& layout, DType dtype, double tolerance) {
  const Reference reference = read_reference(fixture, 4096);
  const auto results = run(fixture, layout, reference.prompts, 0, dtype);
  ASSERT_TRUE(results.is_ok()) << results.status().message();
  for (size_t i = 0; i < results->size(); ++i) {
    if (reference.expected[i]["mean_nll"].is_null()) continue;
    EXPECT_NEAR(*results.value()[i].mean_nll, reference.expected[i]["mean_nll"].get<double>(),
                tolerance)
        << results.value()[i].name;
  }
}

TEST_F(EvaluationCudaTest, InBf16IsCloseToTheReferences) {
  for (const Fixture& fixture : {kDeepSeek, kQwen3, kLlama4}) {
    SCOPED_TRACE(fixture.folder);
    expect_nll(fixture, on_gpu(), DType::kBF16, 0.02);
  }
}

TEST_F(EvaluationCudaTest, InFp8IsCloseToTheReference) {
  expect_nll(kDeepSeek, on_gpu(), DType::kF8E4M3, 0.05);
}

TEST_F(EvaluationCudaTest, LayoutsGiveTheTokensOfOneRank) {
  const std::vector<Layout> layouts = {
      {sizes(2, 1, 1)},          {sizes(4, 1, 1, 4)},
      {sizes(4, 1, 1, 4, true)}, {sizes(4, 1, 1, 4, true), 96},
      {hybrid(4, 2, 2, false)},  {hybrid(4, 2, 2, true)},
      {sizes(1, 2, 1)},          {sizes(1, 1, 2)},
      {sizes(2, 2, 1)},          {sizes(1, 1, 1), std::nullopt, 7}};
  for (const Layout& layout : layouts) {
    const ParallelConfig& parallel = layout.parallel;
    SCOPED_TRACE(testing::Message()
                 << "tp " << parallel.tensor_parallel_size << " pp "
                 << parallel.pipeline_parallel_size << " cp " << parallel.context_parallel_size
                 << " attention DP " << parallel.enable_attention_dp);
    expect_same_as_one_rank(kDeepSeek, on_gpu(layout));
  }
}

TEST_F(EvaluationCudaTest, GroupedQueryLayoutsGiveTheTokensOfOneRank) {
  for (const Fixture& fixture : {kQwen3, kLlama4}) {
    SCOPED_TRACE(fixture.folder);
    expect_same_as_one_rank(fixture, on_gpu({sizes(2, 1, 1)}));
    expect_same_as_one_rank(fixture, on_gpu({sizes(4, 1, 1, 4, true)}));
    expect_same_as_one_rank(fixture, on_gpu({sizes(1, 1, 2)}));
  }
}

BalancerConfig balancer_of(int ep, ReplicaChoice choice, CombineMode combine) {
  BalancerConfig balancer;
  balancer.num_slots = eplb::slots_with_spares(64, ep, 2);
  balancer.replica_choice = choice;
  balancer.combine = combine;
  return balancer;
}

// Backend WideEP on the GPU.
Layout wide_ep(int ep, const BalancerConfig& balancer) {
  Layout layout = on_gpu({sizes(ep, 1, 1, ep, true)});
  layout.balancer = balancer;
  return layout;
}

constexpr ReplicaChoice kChoices[] = {ReplicaChoice::kRoundRobin, ReplicaChoice::kQuota,
                                      ReplicaChoice::kPerBatch};

// In fp32 the rows are gathered; slots are chosen as on any GPU.
TEST_F(EvaluationCudaTest, WideEpInFp32GivesTheTokensOfOneRank) {
  for (const int ep : {1, 2, 5}) {
    for (const ReplicaChoice choice : kChoices) {
      SCOPED_TRACE(testing::Message() << "EP " << ep << " " << replica_choice_name(choice));
      Layout layout = wide_ep(ep, balancer_of(ep, choice, CombineMode::kReduced));
      if (choice == ReplicaChoice::kPerBatch) layout.moe_max_num_tokens = 50;
      expect_same_as_one_rank(kDeepSeek, layout);
    }
  }
}

TEST_F(EvaluationCudaTest, WideEpRunsTheOtherFamiliesOverStagesAndContexts) {
  for (const Fixture& fixture : {kQwen3, kLlama4}) {
    for (const ParallelConfig& parallel :
         {sizes(2, 1, 1, 2, true), sizes(2, 2, 1, 2, true), sizes(2, 1, 2, 2, true)}) {
      SCOPED_TRACE(testing::Message() << fixture.folder << " pp " << parallel.pipeline_parallel_size
                                      << " cp " << parallel.context_parallel_size);
      Layout layout = on_gpu({parallel});
      layout.balancer.emplace();
      layout.balancer->num_slots =
          read_model_config(path_of(fixture.folder)).value().moe.num_experts + 2;
      expect_same_as_one_rank(fixture, layout);
    }
  }
}

// Decode steps as graphs may cut attention otherwise: then only tokens and margins tell.
void expect_same_bits(const std::vector<Evaluation>& actual,
                      const std::vector<Evaluation>& expected, float margin_tolerance = 0) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(actual[i].greedy, expected[i].greedy) << actual[i].name;
    EXPECT_EQ(actual[i].top_logits, expected[i].top_logits) << actual[i].name;
    EXPECT_EQ(actual[i].logits_l2, expected[i].logits_l2) << actual[i].name;
    EXPECT_EQ(actual[i].mean_nll, expected[i].mean_nll) << actual[i].name;
    ASSERT_EQ(actual[i].greedy_margin.size(), expected[i].greedy_margin.size());
    for (size_t step = 0; step < expected[i].greedy_margin.size(); ++step) {
      EXPECT_NEAR(actual[i].greedy_margin[step], expected[i].greedy_margin[step], margin_tolerance)
          << actual[i].name << ", step " << step;
    }
  }
}

// Rows over the all-to-all and back unreduced: the logits of one rank to the last bit, for EP
// sizes, replica choices and chunks.
TEST_F(EvaluationCudaTest, WideEpExactGivesTheBitsOfOneRank) {
  const Reference reference = read_reference(kDeepSeek, 260);
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3}) {
    const auto exact = [](int ep, ReplicaChoice choice) {
      return wide_ep(ep, balancer_of(ep, choice, CombineMode::kExact));
    };
    const auto one =
        run(kDeepSeek, exact(1, ReplicaChoice::kPerBatch), reference.prompts, 8, dtype);
    ASSERT_TRUE(one.is_ok()) << one.status().message();
    for (const int ep : {2, 5}) {
      for (const ReplicaChoice choice : kChoices) {
        SCOPED_TRACE(testing::Message()
                     << dtype_name(dtype) << " EP " << ep << " " << replica_choice_name(choice));
        Layout layout = exact(ep, choice);
        if (choice == ReplicaChoice::kQuota) layout.moe_max_num_tokens = 50;
        const auto results = run(kDeepSeek, layout, reference.prompts, 8, dtype);
        ASSERT_TRUE(results.is_ok()) << results.status().message();
        expect_same_bits(*results, *one);
      }
    }
  }
}

// Weights go from GPU to GPU between the steps, of which some are graphs.
TEST_F(EvaluationCudaTest, WideEpExactIsOneRankWhileExpertsMove) {
  const Reference reference = read_reference(kDeepSeek, 260);
  BalancerConfig still = balancer_of(1, ReplicaChoice::kPerBatch, CombineMode::kExact);
  const auto one = run(kDeepSeek, wide_ep(1, still), reference.prompts, 8, DType::kBF16);
  ASSERT_TRUE(one.is_ok()) << one.status().message();
  for (const bool uses_graphs : {false, true}) {
    const int ep = uses_graphs ? std::min(4, num_gpus()) : 4;  // ranks that share a GPU have none
    if (ep == 1) continue;
    SCOPED_TRACE(testing::Message() << "graphs " << uses_graphs);
    BalancerConfig moving = balancer_of(ep, ReplicaChoice::kPerBatch, CombineMode::kExact);
    moving.layer_updates_per_iter = 8;  // every layer in every iteration
    moving.min_gain = 0;
    moving.decay = 0.2;
    Layout layout = wide_ep(ep, moving);
    layout.uses_graphs = uses_graphs;
    const auto results = run(kDeepSeek, layout, reference.prompts, 8, DType::kBF16);
    ASSERT_TRUE(results.is_ok()) << results.status().message();
    expect_same_bits(*results, *one, uses_graphs ? 0.05F : 0);
  }
}

// Graphs run the same kernels on the same rows; ranks without a token take part in them.
TEST_F(EvaluationCudaTest, WideEpGraphsGiveTheBitsOfEagerSteps) {
  const Reference reference = read_reference(kDeepSeek, 48);
  ASSERT_GE(reference.prompts.size(), 2U);
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3}) {
    for (const int ep : {1, 2, 3}) {
      if (ep > num_gpus()) continue;  // ranks that share a GPU have none
      SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " EP " << ep);
      Layout layout = wide_ep(ep, balancer_of(ep, ReplicaChoice::kPerBatch, CombineMode::kExact));
      const auto eager = run(kDeepSeek, layout, reference.prompts, 24, dtype);
      layout.uses_graphs = true;
      const auto graphs = run(kDeepSeek, layout, reference.prompts, 24, dtype);
      ASSERT_TRUE(eager.is_ok()) << eager.status().message();
      ASSERT_TRUE(graphs.is_ok()) << graphs.status().message();
      expect_same_bits(*graphs, *eager, 0.05F);
    }
  }
}

// Each rank rounds its sums, which changes the experts that a few tokens take: in FP8 one prompt
// was 0.058 away.
TEST_F(EvaluationCudaTest, WideEpReducedIsCloseToTheReference) {
  for (const auto& [dtype, tolerance] : {std::pair{DType::kBF16, 0.02}, {DType::kF8E4M3, 0.07}}) {
    for (const ReplicaChoice choice : kChoices) {
      SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " " << replica_choice_name(choice));
      expect_nll(kDeepSeek, wide_ep(4, balancer_of(4, choice, CombineMode::kReduced)), dtype,
                 tolerance);
    }
  }
}

TEST_F(EvaluationCudaTest, WideEpRefusesExactSumsInFp32) {
  const Reference reference = read_reference(kDeepSeek, 48);
  const auto refused =
      run(kDeepSeek, wide_ep(2, balancer_of(2, ReplicaChoice::kPerBatch, CombineMode::kExact)),
          reference.prompts, 0);
  ASSERT_FALSE(refused.is_ok());
  EXPECT_NE(refused.status().message().find("load_balancer.combine: exact"), std::string::npos)
      << refused.status().message();
}

}  // namespace
}  // namespace wideep::engine
