#include "engine/request.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace wideep::engine {
namespace {

Status check_tokens(const std::vector<int>& ids, const char* what, int vocab_size) {
  const auto bad = std::ranges::find_if(ids, [&](int id) { return id < 0 || id >= vocab_size; });
  if (bad == ids.end()) return Status::ok();
  return Status::invalid_input(fmt::format("{} token {} is {}: the vocabulary has the ids 0 to {}",
                                           what, bad - ids.begin(), *bad, vocab_size - 1));
}

Status check_sampling(const kernels::SamplingParams& sampling) {
  if (!std::isfinite(sampling.temperature) || sampling.temperature < 0) {
    return Status::invalid_input(
        fmt::format("temperature {} must be a number from 0 on", sampling.temperature));
  }
  if (!(sampling.top_p > 0 && sampling.top_p <= 1)) {
    return Status::invalid_input(
        fmt::format("top_p {} must be more than 0 and at most 1", sampling.top_p));
  }
  if (sampling.top_k < 0) {
    return Status::invalid_input(
        fmt::format("top_k {} must be at least 0 (0: all tokens)", sampling.top_k));
  }
  return Status::ok();
}

// Do the prompt and the answer fit what an iteration and the cache can hold?
Status check_sizes(const GenerationRequest& request, const RequestLimits& limits) {
  const auto length = static_cast<int64_t>(request.prompt.size());
  if (length + 1 > limits.max_seq_len) {
    return Status::invalid_input(
        fmt::format("the prompt has {} tokens: max_seq_len {} leaves room for {} and one new token",
                    length, limits.max_seq_len, limits.max_seq_len - 1));
  }
  if (!limits.enable_chunked_prefill && length > limits.max_num_tokens) {
    return Status::invalid_input(
        fmt::format("the prompt has {} tokens: an iteration takes max_num_tokens {} (or set "
                    "enable_chunked_prefill: true)",
                    length, limits.max_num_tokens));
  }
  // The last token is never read back, so it needs no room.
  const int64_t stored = length + answer_limit(request, limits.max_seq_len) - 1;
  const int64_t pages = (stored + limits.page_tokens - 1) / limits.page_tokens;
  if (pages > limits.num_pages) {
    return Status::invalid_input(fmt::format(
        "prompt and answer of {} tokens need {} pages of {} tokens: the KV cache has {}",
        stored + 1, pages, limits.page_tokens, limits.num_pages));
  }
  return Status::ok();
}

}  // namespace

std::string_view to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "none";
    case FinishReason::kStopToken:
      return "stop_token";
    case FinishReason::kStopString:
      return "stop_string";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  CHECK(false);
}

int answer_limit(const GenerationRequest& request, int max_seq_len) {
  return std::min(request.max_new_tokens, max_seq_len - static_cast<int>(request.prompt.size()));
}

Status check_request(const GenerationRequest& request, const RequestLimits& limits) {
  if (request.prompt.empty()) {
    return Status::invalid_input("the prompt is empty: it must have at least one token");
  }
  if (request.max_new_tokens < 1) {
    return Status::invalid_input(
        fmt::format("max_new_tokens {} must be at least 1", request.max_new_tokens));
  }
  RETURN_IF_ERROR(check_sampling(request.sampling));
  RETURN_IF_ERROR(check_tokens(request.prompt, "prompt", limits.vocab_size));
  RETURN_IF_ERROR(check_tokens(request.stop_token_ids, "stop", limits.vocab_size));
  for (const std::string& stop : request.stop_strings) {
    if (stop.empty()) return Status::invalid_input("a stop string must not be empty");
    if (!limits.has_tokenizer) {
      return Status::invalid_input(
          fmt::format("stop string \"{}\" cannot act: the model has no tokenizer.json", stop));
    }
  }
  return check_sizes(request, limits);
}

}  // namespace wideep::engine
