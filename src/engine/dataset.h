// Requests for benchmarks: trtllm-bench's dataset files, one JSON object a line, or a synthetic
// load.
//
//   {"task_id": 0, "prompt": "The quick", "output_tokens": 128}
//   {"task_id": 1, "input_ids": [5, 17, 2], "output_tokens": 64}
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace wideep::engine {

struct DatasetEntry {
  int64_t task_id = 0;
  std::string prompt;          // text, where input_ids is empty
  std::vector<int> input_ids;  // token ids
  int output_tokens = 0;
};

// kInvalidInput "name:line: what: rule" for the first line that breaks a rule. Empty lines are
// skipped; "logits" is an older name of input_ids. At least one entry.
Result<std::vector<DatasetEntry>> parse_dataset(std::string_view text, const std::string& name);
Result<std::vector<DatasetEntry>> read_dataset(const std::string& path);

struct SyntheticLoad {
  int num_requests = 0;
  int input_tokens = 0;
  int output_tokens = 0;
  int vocab_size = 0;
  uint64_t seed = 0;
};

// Entries of uniformly random ids; entry i depends on seed and i alone.
std::vector<DatasetEntry> synthetic_dataset(const SyntheticLoad& load);

}  // namespace wideep::engine
