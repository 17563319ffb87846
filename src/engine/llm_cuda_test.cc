// The whole engine on a GPU, with the host an iteration ahead of it and without. Ranks beyond the
// number of GPUs share them.
#include "engine/llm.h"

#include <gtest/gtest.h>

#include "base/device.h"
#include "engine/llm_testing.h"

namespace wideep::engine {
namespace {

class LlmCudaTest : public ::testing::TestWithParam<LlmCase> {};

TEST_P(LlmCudaTest, GivesTheReferencesGreedyTokens) {
  const DeviceReport report = device_report();
  if (report.devices.empty()) GTEST_SKIP() << report.problem;
  const std::vector<LlmReference> references = read_llm_references(0.1);
  ASSERT_GE(references.size(), 10U);
  expect_greedy(references, answer_references(GetParam(), references));
}

LlmCase on_gpu(LlmCase options) {
  options.device = DeviceKind::kCuda;
  return options;
}

INSTANTIATE_TEST_SUITE_P(
    All, LlmCudaTest,
    ::testing::Values(
        on_gpu({"overlapping", "", {}}),
        on_gpu({"one_by_one", "disable_overlap_scheduler: true", {}}),
        on_gpu({"eager", "cuda_graph_config: null", {}}),
        on_gpu({"chunks",
                "enable_chunked_prefill: true",
                {.max_batch_size = 4, .max_num_tokens = 20}}),
        on_gpu(
            {"preempting",
             "kv_cache_config: {tokens_per_block: 8, max_tokens: 384, enable_block_reuse: false}",
             {}}),
        on_gpu({"attention_dp_ep",
                "enable_attention_dp: true",
                {.tp = 4, .ep = 4, .max_num_tokens = 300}}),
        on_gpu({"tp_pp", "", {.tp = 2, .pp = 2}}), on_gpu({"cp", "", {.cp = 2}})),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace wideep::engine
