// What is asked of the engine for one prompt, what comes back, and which requests are refused.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "kernels/sampling.h"

namespace wideep::engine {

using RequestId = int64_t;

struct GenerationRequest {
  std::vector<int> prompt;  // token ids
  int max_new_tokens = 16;
  kernels::SamplingParams sampling = {};
  std::vector<int> stop_token_ids =
      {};  // end the answer, beside the model's end-of-sequence tokens
  // Text that ends the answer and is not part of it; may span tokens. Needs a tokenizer.
  std::vector<std::string> stop_strings = {};
  bool ignore_eos = false;  // the model's end-of-sequence tokens are tokens like others
};

enum class FinishReason {
  kNone,        // goes on
  kStopToken,   // the last token is a stop token
  kStopString,  // the text would go on with a stop string
  kLength,      // max_new_tokens, or max_seq_len, is reached
  kCancelled,
  kError,
};
std::string_view to_string(FinishReason reason);

// News of one request, in order; the last of them, and no other, has a finish reason.
struct GenerationEvent {
  RequestId id = 0;
  std::vector<int> token_ids = {};  // new tokens, a stop token among them
  std::string text = {};            // new text, whole characters; "" without a tokenizer
  FinishReason finish = FinishReason::kNone;
  Status status = {};         // why, with kError
  int num_cached_tokens = 0;  // of the prompt, that were not computed again
};

// What an engine can take.
struct RequestLimits {
  int vocab_size = 0;
  int max_seq_len = 0;     // prompt and answer
  int max_num_tokens = 0;  // of an iteration
  bool enable_chunked_prefill = false;
  int num_pages = 0;  // of the KV cache of a rank
  int page_tokens = 0;
  bool has_tokenizer = false;
};

// kInvalidInput, naming both numbers, for a request that could never be answered. O(prompt).
Status check_request(const GenerationRequest& request, const RequestLimits& limits);

// Tokens that the answer may have: max_new_tokens, less where max_seq_len ends it.
int answer_limit(const GenerationRequest& request, int max_seq_len);

}  // namespace wideep::engine
