// The engine with the embedded model, held to references that another implementation computed: what
// the tests of all devices share.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/llm.h"

namespace wideep::engine {

inline const std::string kLlmModel = WIDEEP_SOURCE_DIR "/models/dsv3-tiny";

struct LlmReference {
  std::string name;
  std::vector<int> prompt;
  std::vector<int> greedy;  // up to the first step that may go either way
};

// The short prompts of the reference file. Steps whose two best logits are within `margin` may go
// either way.
std::vector<LlmReference> read_llm_references(double margin = 0.02);

struct LlmCase {
  const char* name;
  std::string config;
  EngineOverrides overrides;
  int replicas = 1;
  DeviceKind device = DeviceKind::kCpu;
};

// Runs `body` with an engine in fp32 on every rank.
Status run_llm(const LlmCase& options,
               const std::function<Status(Llm&, dist::Communicator&)>& body);

// The answers to all references at once, greedy; replica r takes every r-th.
std::vector<std::vector<int>> answer_references(const LlmCase& options,
                                                const std::vector<LlmReference>& references,
                                                RunStats* stats = nullptr);

void expect_greedy(const std::vector<LlmReference>& references,
                   const std::vector<std::vector<int>>& answers);

}  // namespace wideep::engine
