// The models against references made by another implementation (Hugging Face transformers,
// float32), on any device and in any layout: what the tests of evaluation share.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "config/engine_config.h"
#include "engine/evaluation.h"

namespace wideep::engine {

// The references of Qwen3 and Llama 4 were made with models that had been cast to bfloat16 and
// back, which rounds rotary frequencies.
struct Fixture {
  const char* folder;     // of the repository
  const char* reference;  // file
  DType rope_frequency_dtype;
};
inline constexpr Fixture kDeepSeek = {"models/dsv3-tiny", "tests/models/dsv3-tiny-reference.json",
                                      DType::kF32};
inline constexpr Fixture kQwen3 = {"tests/models/qwen3-moe-random",
                                   "tests/models/qwen3-moe-random/reference.json", DType::kBF16};
inline constexpr Fixture kLlama4 = {"tests/models/llama4-random",
                                    "tests/models/llama4-random/reference.json", DType::kBF16};

struct Layout {
  ParallelConfig parallel;
  std::optional<int> moe_max_num_tokens = std::nullopt;
  int max_num_tokens = 2048;
  // Backend WideEP where there is one.
  std::optional<BalancerConfig> balancer = std::nullopt;
  DeviceKind device = DeviceKind::kCpu;
  // Decode steps as graphs, on a GPU.
  bool uses_graphs = false;
};

std::string path_of(const char* relative);

// All ranks are threads of this process.
Result<std::vector<Evaluation>> run(const Fixture& fixture, const Layout& layout,
                                    std::span<const EvaluationPrompt> prompts, int num_greedy,
                                    DType dtype = DType::kF32);

// The reference's prompts of at most `max_tokens`, with their expected results.
struct Reference {
  std::vector<EvaluationPrompt> prompts;
  std::vector<Json> expected;
};

Reference read_reference(const Fixture& fixture, int max_tokens);

// What a device may differ by.
struct Tolerance {
  double greedy_margin = 0.02;  // a step may differ where the best two logits are this close
  double logits = 1e-3;         // relative, of the reference's top 20
  double nll = 1e-3;
};
// Of one rank in fp32.
void expect_reference(const Fixture& fixture, const Layout& layout, const Tolerance& tolerance);

// L2 over the reference's top 20, relative.
double logits_error(const Json& expected, const Evaluation& actual);

ParallelConfig sizes(int tp, int pp, int cp, int ep = 1, bool attention_dp = false);
ParallelConfig hybrid(int tp, int moe_tp, int moe_ep, bool attention_dp);

// One rank's results on the layout's device, for all layouts.
const std::vector<Evaluation>& one_rank(const Fixture& fixture, DeviceKind device,
                                        std::span<const EvaluationPrompt> prompts);

// Against one rank, not the reference: sums over ranks round differently, nothing else may differ.
void expect_same_as_one_rank(const Fixture& fixture, const Layout& layout);

}  // namespace wideep::engine
