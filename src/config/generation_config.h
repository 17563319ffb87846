// A checkpoint's generation_config.json: where its author says how to sample from it. Everything in
// it is a default, which a request may change.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace wideep {

struct GenerationConfig {
  std::vector<int> eos_token_ids;  // empty: not given, config.json's hold
  bool do_sample = false;          // false: greedy, whatever the three below say
  // Null: not given.
  std::optional<double> temperature;  // > 0
  std::optional<double> top_p;        // (0, 1]
  std::optional<int> top_k;           // 0: all tokens
};

// Reads `folder`/generation_config.json; a folder without one gives the defaults. Keys for other
// ways of decoding (beams, penalties) are not read. Every violation at once.
Result<GenerationConfig> read_generation_config(const std::string& folder);
// The same from memory; `name` stands for the file in messages.
Result<GenerationConfig> parse_generation_config(std::string_view json, const std::string& name);

}  // namespace wideep
