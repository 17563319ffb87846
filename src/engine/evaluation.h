// Teacher-forced evaluation of prompts: what another implementation can be held against. Used by
// `wideep eval`.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "config/engine_config.h"
#include "config/model_config.h"
#include "dist/communicator.h"
#include "engine/rank_device.h"

namespace wideep::engine {

struct EvaluationPrompt {
  std::string name;
  std::vector<int> token_ids;
};

struct Evaluation {
  std::string name;
  std::optional<double> mean_nll;                 // of tokens 1, 2, ...; null for a single token
  std::vector<std::pair<int, float>> top_logits;  // of the last position, descending: (id, logit)
  double logits_l2 = 0;                           // of the last position
  std::vector<int> greedy;                        // next tokens
  std::vector<float> greedy_margin;               // best minus second logit at each of these steps
  // Decoder layer -> [tokens][top_k] experts of the prompt's tokens, best first.
  std::map<int, std::vector<std::vector<int>>> routed_experts;
};

// [{"name": ..., "token_ids": [...]}, ...]; other keys are left alone. Violations name the entry.
Result<std::vector<EvaluationPrompt>> parse_evaluation_prompts(std::string_view json,
                                                               const std::string& name);
// A JSON list of objects: name, mean_nll, last_logits_top20, last_logits_l2, greedy, greedy_margin,
// routed_experts.
std::string evaluations_json(std::span<const Evaluation> evaluations);

struct EvaluationJob {
  std::string folder;  // of the model
  ModelConfig model;   // its config.json
  EngineConfig engine;
  DType dtype = DType::kF32;  // of linear weights and KV cache
  DeviceKind device = DeviceKind::kCpu;
  // Off: results have no routed experts, and decode steps may run as graphs.
  bool records_routing = true;
  DType rope_frequency_dtype = DType::kF32;  // see ModelOptions
  int num_greedy = 0;                        // next tokens after each prompt
};

// Loads the model and runs the prompts one after the other, with attention DP side by side on the
// ranks of the tp group. Collective over the world, whose replicas all do the same; the result is
// complete on rank 0 of each replica and empty elsewhere.
Result<std::vector<Evaluation>> evaluate(const EvaluationJob& job,
                                         std::span<const EvaluationPrompt> prompts,
                                         ThreadPool& pool, dist::Communicator& world);

}  // namespace wideep::engine
