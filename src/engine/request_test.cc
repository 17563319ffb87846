#include "engine/request.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "base/file_testing.h"

namespace wideep::engine {
namespace {

RequestLimits limits_of() {
  return {.vocab_size = 100,
          .max_seq_len = 64,
          .max_num_tokens = 32,
          .enable_chunked_prefill = false,
          .num_pages = 4,
          .page_tokens = 8,
          .has_tokenizer = true};
}

GenerationRequest request_of(int prompt_tokens, int max_new_tokens) {
  GenerationRequest request;
  request.prompt.assign(static_cast<size_t>(prompt_tokens), 1);
  request.max_new_tokens = max_new_tokens;
  return request;
}

TEST(CheckRequest, GoodOnesPass) {
  EXPECT_TRUE(check_request(request_of(1, 1), limits_of()).is_ok());
  EXPECT_TRUE(check_request(request_of(20, 13), limits_of()).is_ok());  // 32 of 33 are stored
  RequestLimits roomy = limits_of();
  roomy.num_pages = 8;
  EXPECT_TRUE(check_request(request_of(20, 1000), roomy).is_ok());  // max_seq_len ends it
}

TEST(CheckRequest, AnswersEndAtMaxSeqLen) {
  EXPECT_EQ(answer_limit(request_of(60, 10), 64), 4);
  EXPECT_EQ(answer_limit(request_of(60, 3), 64), 3);
}

struct BadRequest {
  const char* name;
  std::function<void(GenerationRequest&, RequestLimits&)> spoil;
  const char* message;
};

class CheckRequestTest : public ::testing::TestWithParam<BadRequest> {};

TEST_P(CheckRequestTest, IsRefusedWithItsNumbers) {
  GenerationRequest request = request_of(4, 4);
  RequestLimits limits = limits_of();
  GetParam().spoil(request, limits);
  const Status status = check_request(request, limits);
  EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
  EXPECT_EQ(error_of(status), GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    All, CheckRequestTest,
    ::testing::Values(
        BadRequest{"EmptyPrompt", [](auto& r, auto&) { r.prompt.clear(); },
                   "the prompt is empty: it must have at least one token"},
        BadRequest{"NoNewTokens", [](auto& r, auto&) { r.max_new_tokens = 0; },
                   "max_new_tokens 0 must be at least 1"},
        BadRequest{"PromptTooLong", [](auto& r, auto&) { r.prompt.assign(64, 1); },
                   "the prompt has 64 tokens: max_seq_len 64 leaves room for 63 and one new token"},
        BadRequest{"PromptBeyondIteration", [](auto& r, auto&) { r.prompt.assign(33, 1); },
                   "the prompt has 33 tokens: an iteration takes max_num_tokens 32 (or set "
                   "enable_chunked_prefill: true)"},
        BadRequest{"TooManyPages", [](auto& r, auto&) { r = request_of(20, 14); },
                   "prompt and answer of 34 tokens need 5 pages of 8 tokens: the KV cache has 4"},
        BadRequest{"TokenTooLarge", [](auto& r, auto&) { r.prompt[2] = 100; },
                   "prompt token 2 is 100: the vocabulary has the ids 0 to 99"},
        BadRequest{"NegativeToken", [](auto& r, auto&) { r.prompt[0] = -1; },
                   "prompt token 0 is -1: the vocabulary has the ids 0 to 99"},
        BadRequest{"StopTokenTooLarge", [](auto& r, auto&) { r.stop_token_ids = {100}; },
                   "stop token 0 is 100: the vocabulary has the ids 0 to 99"},
        BadRequest{"EmptyStop", [](auto& r, auto&) { r.stop_strings = {""}; },
                   "a stop string must not be empty"},
        BadRequest{"StopWithoutTokenizer",
                   [](auto& r, auto& l) {
                     r.stop_strings = {"x"};
                     l.has_tokenizer = false;
                   },
                   "stop string \"x\" cannot act: the model has no tokenizer.json"},
        BadRequest{"Temperature", [](auto& r, auto&) { r.sampling.temperature = -1; },
                   "temperature -1 must be a number from 0 on"},
        BadRequest{"NotANumber",
                   [](auto& r, auto&) {
                     r.sampling.temperature = std::numeric_limits<float>::quiet_NaN();
                   },
                   "temperature nan must be a number from 0 on"},
        BadRequest{"TopP", [](auto& r, auto&) { r.sampling.top_p = 0; },
                   "top_p 0 must be more than 0 and at most 1"},
        BadRequest{"TopK", [](auto& r, auto&) { r.sampling.top_k = -1; },
                   "top_k -1 must be at least 0 (0: all tokens)"}),
    [](const auto& info) { return info.param.name; });

TEST(FinishReasons, HaveNames) {
  EXPECT_EQ(to_string(FinishReason::kStopToken), "stop_token");
  EXPECT_EQ(to_string(FinishReason::kLength), "length");
}

}  // namespace
}  // namespace wideep::engine
