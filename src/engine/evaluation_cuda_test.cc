// The references of the CPU as judges of the GPU. Ranks beyond the number of GPUs share them.

#include <gtest/gtest.h>

#include "base/device.h"
#include "engine/evaluation_testing.h"

namespace wideep::engine {
namespace {

class EvaluationCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    const DeviceReport report = device_report();
    if (report.devices.empty()) GTEST_SKIP() << report.problem;
  }
};

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
void expect_nll(const Fixture& fixture, DType dtype, double tolerance) {
  const Reference reference = read_reference(fixture, 4096);
  const auto results = run(fixture, on_gpu(), reference.prompts, 0, dtype);
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
    expect_nll(fixture, DType::kBF16, 0.02);
  }
}

TEST_F(EvaluationCudaTest, InFp8IsCloseToTheReference) {
  expect_nll(kDeepSeek, DType::kF8E4M3, 0.05);
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

}  // namespace
}  // namespace wideep::engine
