// The engine with the embedded model, held to references that another implementation computed.
#include "engine/llm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <string>

#include "base/file_testing.h"
#include "dist/world.h"
#include "engine/llm_testing.h"

namespace wideep::engine {
namespace {

using ::testing::HasSubstr;

class LlmTest : public ::testing::TestWithParam<LlmCase> {};

TEST_P(LlmTest, GivesTheReferencesGreedyTokens) {
  const std::vector<LlmReference> references = read_llm_references();
  ASSERT_GE(references.size(), 10U);
  expect_greedy(references, answer_references(GetParam(), references));
}

INSTANTIATE_TEST_SUITE_P(All, LlmTest,
                         ::testing::Values(LlmCase{"one", "", {}, 1},
                                           LlmCase{"chunks",
                                                   "enable_chunked_prefill: true",
                                                   {.max_batch_size = 4, .max_num_tokens = 20}},
                                           LlmCase{"attention_dp_ep",
                                                   "enable_attention_dp: true",
                                                   {.tp = 4, .ep = 4, .max_num_tokens = 300}},
                                           LlmCase{"tp_pp", "", {.tp = 2, .pp = 2}},
                                           LlmCase{"cp", "", {.cp = 2}},
                                           LlmCase{"replicas", "", {.tp = 2, .ep = 2}, 2}),
                         [](const auto& info) { return info.param.name; });

TEST(Llm, PreemptionLeavesTokensAsTheyAre) {
  const std::vector<LlmReference> references = read_llm_references();
  RunStats stats;
  // Room for about three of the prompts.
  const LlmCase tight{
      "", "kv_cache_config: {tokens_per_block: 8, max_tokens: 384, enable_block_reuse: false}", {}};
  expect_greedy(references, answer_references(tight, references, &stats));
  EXPECT_GT(stats.preemptions, 0);
}

TEST(Llm, ReadsWhatItSaysItWill) {
  ThreadPool pool(2);
  std::atomic<int64_t> planned = 0;
  std::atomic<int64_t> read = 0;
  const ModelConfig model = read_model_config(kLlmModel).value();
  const EngineConfig engine = parse_engine_config("", "none", {.tp = 2, .ep = 2}, &model).value();
  dist::World world = dist::World::local(2).value();
  const Status status = world.run([&](dist::Communicator& communicator) {
    return Llm::create({.folder = kLlmModel,
                        .model = model,
                        .engine = engine,
                        .dtype = DType::kBF16,
                        .pool = &pool,
                        .on_read_planned = [&](int64_t bytes) { planned += bytes; },
                        .on_read = [&](int64_t bytes) { read += bytes; }},
                       communicator)
        .status();
  });
  EXPECT_EQ(status.message(), "");
  EXPECT_GT(planned, 30'000'000);
  EXPECT_EQ(read, planned);
}

TEST(Llm, StreamsTheTextOfItsTokens) {
  const Status status = run_llm({}, [&](Llm& llm, dist::Communicator&) -> Status {
    GenerationRequest request;
    request.prompt = llm.tokenizer()->encode("func main() {\n\tfmt.").value();
    request.max_new_tokens = 40;
    std::string text;
    std::vector<int> tokens;
    RequestQueue queue;
    queue.submit(request, [&](const GenerationEvent& event) {
      text += event.text;
      tokens.insert(tokens.end(), event.token_ids.begin(), event.token_ids.end());
    });
    // Ends where the text would first have these letters.
    std::string stopped;
    FinishReason reason = FinishReason::kNone;
    request.stop_strings = {"\n"};
    queue.submit(request, [&](const GenerationEvent& event) {
      stopped += event.text;
      reason = event.finish;
    });
    queue.close();
    RETURN_IF_ERROR(llm.run(&queue).status());
    EXPECT_EQ(text, llm.tokenizer()->decode(tokens, {.skip_special_tokens = true}).value());
    EXPECT_EQ(stopped, text.substr(0, text.find('\n')));
    EXPECT_EQ(reason == FinishReason::kStopString, text.find('\n') != std::string::npos);
    return Status::ok();
  });
  EXPECT_EQ(status.message(), "");
}

TEST(Llm, SamplingDependsOnSeedAndNotOnTheBatch) {
  const Status status = run_llm({}, [&](Llm& llm, dist::Communicator&) -> Status {
    const auto sample = [&](const std::vector<uint64_t>& seeds) {
      std::vector<std::vector<int>> answers(seeds.size());
      RequestQueue queue;
      for (size_t i = 0; i < seeds.size(); ++i) {
        GenerationRequest request;
        request.prompt = llm.tokenizer()->encode("Once upon a time").value();
        request.max_new_tokens = 12;
        request.sampling = {.temperature = 1, .top_k = 40, .top_p = 0.95F, .seed = seeds[i]};
        queue.submit(request, [&answers, i](const GenerationEvent& event) {
          answers[i].insert(answers[i].end(), event.token_ids.begin(), event.token_ids.end());
        });
      }
      queue.close();
      EXPECT_TRUE(llm.run(&queue).is_ok());
      return answers;
    };
    const auto together = sample({1, 2, 3});
    EXPECT_EQ(sample({2})[0], together[1]);
    EXPECT_EQ(sample({3})[0], together[2]);
    EXPECT_NE(together[0], together[1]);
    return Status::ok();
  });
  EXPECT_EQ(status.message(), "");
}

TEST(Llm, TooLittleMemoryIsAnErrorOnAllRanks) {
  const Status status =
      run_llm({"", "kv_cache_config: {free_gpu_memory_fraction: 0.0000001}", {.tp = 2}},
              [](Llm&, dist::Communicator&) { return Status::ok(); });
  EXPECT_THAT(status.message(), HasSubstr("too little memory"));
}

TEST(CheckEngineCan, NamesEveryKeyThatCannotAct) {
  EngineConfig config;
  EXPECT_TRUE(check_engine_can(config).is_ok());
  config.kv_cache.dtype = KvCacheType::kFp8;
  config.speculative.emplace();
  config.parallel.enable_lm_head_tp_in_adp = true;
  config.cp.emplace().cp_type = CpType::kRing;
  config.attention_dp.enable_balance = true;
  config.cache_transceiver.emplace().backend = CacheTransceiverBackend::kMpi;
  const std::string error = error_of(check_engine_can(config));
  for (const char* key : {"kv_cache_config.dtype", "speculative_config", "cp_config.cp_type",
                          "enable_lm_head_tp_in_adp", "attention_dp_config.enable_balance",
                          "cache_transceiver_config"}) {
    EXPECT_THAT(error, HasSubstr(key));
  }
}

}  // namespace
}  // namespace wideep::engine
