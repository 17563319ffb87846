// Datasets for benchmarks: prompts of random tokens or cut from texts, with lengths drawn from a
// normal distribution, as trtllm-bench's prepare_dataset makes them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/dataset.h"
#include "tokenizer/tokenizer.h"

namespace wideep::engine {

// Lengths in tokens; drawn values are rounded and at least 1.
struct LengthDistribution {
  double mean = 0;
  double stdev = 0;  // 0: always the mean
};

struct DatasetPlan {
  int num_requests = 0;
  LengthDistribution input;
  LengthDistribution output;
  int vocab_size = 0;  // of random prompts
  uint64_t seed = 0;
  // Of prompts from texts: a prompt begins anywhere in its text, so that a text that is used again
  // gives another prompt (which a KV cache does not know). Needs an input mean.
  bool random_start = false;
  // Of several lists of texts: the requests take them in turn, else one list after the other.
  bool mix = false;
};

// Texts that belong together: of one language, one customer.
struct TextList {
  std::string name;  // opens the messages
  std::vector<std::string> texts;
};

// Request i depends on the plan's numbers and i alone.
std::vector<DatasetEntry> random_dataset(const DatasetPlan& plan);

// Prompts cut from texts, as ids. Each list (at least one) has the same share of the requests, and
// its texts are taken in turn. Where an input mean is given, a prompt is cut to its drawn length,
// from its text's beginning unless random_start; a shorter text is taken whole. kInvalidInput where
// a text is not UTF-8 or gives no token.
Result<std::vector<DatasetEntry>> text_dataset(const DatasetPlan& plan,
                                               std::span<const TextList> lists,
                                               const tokenizer::Tokenizer& tokenizer);

// Texts of a file: a JSON list of strings, a JSON object of such lists, or else one text a line.
// At least one; `name` opens the messages.
Result<std::vector<std::string>> parse_texts(std::string_view file, const std::string& name);

// One JSON object a line, as parse_dataset() reads it.
std::string dataset_text(std::span<const DatasetEntry> entries);

}  // namespace wideep::engine
