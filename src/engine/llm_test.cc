// The engine with the embedded model, held to references that another implementation computed.
#include "engine/llm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <string>

#include "base/file_testing.h"
#include "base/json.h"
#include "dist/world.h"

namespace wideep::engine {
namespace {

using ::testing::HasSubstr;

const std::string kModel = WIDEEP_SOURCE_DIR "/models/dsv3-tiny";
const std::string kReference = WIDEEP_SOURCE_DIR "/tests/models/dsv3-tiny-reference.json";
constexpr size_t kLongPrompt = 512;
// Steps whose two best logits are this close may go either way.
constexpr double kMargin = 0.02;

struct Reference {
  std::string name;
  std::vector<int> prompt;
  std::vector<int> greedy;  // up to the first step that may go either way
};

// The short prompts of the reference file.
std::vector<Reference> read_references() {
  std::vector<Reference> references;
  for (const Json& entry : read_json(kReference).value()) {
    Reference reference{entry["name"], entry["token_ids"], {}};
    if (reference.prompt.size() > kLongPrompt) continue;
    for (size_t step = 0; step < entry["greedy"].size(); ++step) {
      if (entry["greedy_margin"][step].get<double>() < kMargin) break;
      reference.greedy.push_back(entry["greedy"][step]);
    }
    if (!reference.greedy.empty()) references.push_back(std::move(reference));
  }
  return references;
}

struct Case {
  const char* name;
  std::string config;
  EngineOverrides overrides;
  int replicas = 1;
};

// Runs `body` with an engine in fp32 on every rank.
Status run_world(const Case& options,
                 const std::function<Status(Llm&, dist::Communicator&)>& body) {
  ASSIGN_OR_RETURN(const ModelConfig model, read_model_config(kModel));
  ASSIGN_OR_RETURN(const EngineConfig engine,
                   parse_engine_config(options.config, "test.yaml", options.overrides, &model));
  const Mapping mapping = Mapping::create(engine.parallel).value();
  ASSIGN_OR_RETURN(dist::World world, dist::World::local(mapping.world() * options.replicas));
  ThreadPool pool(2);
  return world.run([&](dist::Communicator& communicator) -> Status {
    ASSIGN_OR_RETURN(const std::unique_ptr<Llm> llm, Llm::create({.folder = kModel,
                                                                  .model = model,
                                                                  .engine = engine,
                                                                  .dtype = DType::kF32,
                                                                  .pool = &pool,
                                                                  .on_read = {},
                                                                  .on_iteration = {}},
                                                                 communicator));
    return body(*llm, communicator);
  });
}

// The answers to all references at once, greedy; replica r takes every r-th.
std::vector<std::vector<int>> answer_all(const Case& options,
                                         const std::vector<Reference>& references,
                                         RunStats* stats = nullptr) {
  std::vector<std::vector<int>> answers(references.size());
  const Status status = run_world(options, [&](Llm& llm, dist::Communicator& world) -> Status {
    RequestQueue queue;
    for (size_t i = 0; i < references.size() && llm.is_leader(); ++i) {
      if (static_cast<int>(i) % llm.num_replicas() != llm.replica()) continue;
      GenerationRequest request;
      request.prompt = references[i].prompt;
      request.max_new_tokens = static_cast<int>(references[i].greedy.size());
      request.ignore_eos = true;
      queue.submit(request, [&answers, i](const GenerationEvent& event) {
        EXPECT_EQ(event.status.message(), "");
        answers[i].insert(answers[i].end(), event.token_ids.begin(), event.token_ids.end());
      });
    }
    queue.close();
    ASSIGN_OR_RETURN(const RunStats result, llm.run(llm.is_leader() ? &queue : nullptr));
    if (stats != nullptr && world.rank() == 0) *stats = result;
    return Status::ok();
  });
  EXPECT_EQ(status.message(), "");
  return answers;
}

void expect_greedy(const std::vector<Reference>& references,
                   const std::vector<std::vector<int>>& answers) {
  ASSERT_EQ(answers.size(), references.size());
  for (size_t i = 0; i < references.size(); ++i) {
    EXPECT_EQ(answers[i], references[i].greedy) << references[i].name;
  }
}

class LlmTest : public ::testing::TestWithParam<Case> {};

TEST_P(LlmTest, GivesTheReferencesGreedyTokens) {
  const std::vector<Reference> references = read_references();
  ASSERT_GE(references.size(), 10U);
  expect_greedy(references, answer_all(GetParam(), references));
}

INSTANTIATE_TEST_SUITE_P(All, LlmTest,
                         ::testing::Values(Case{"one", "", {}, 1},
                                           Case{"chunks",
                                                "enable_chunked_prefill: true",
                                                {.max_batch_size = 4, .max_num_tokens = 20}},
                                           Case{"attention_dp_ep",
                                                "enable_attention_dp: true",
                                                {.tp = 4, .ep = 4, .max_num_tokens = 300}},
                                           Case{"tp_pp", "", {.tp = 2, .pp = 2}},
                                           Case{"cp", "", {.cp = 2}},
                                           Case{"replicas", "", {.tp = 2, .ep = 2}, 2}),
                         [](const auto& info) { return info.param.name; });

TEST(Llm, PreemptionLeavesTokensAsTheyAre) {
  const std::vector<Reference> references = read_references();
  RunStats stats;
  // Room for about three of the prompts.
  const Case tight{
      "", "kv_cache_config: {tokens_per_block: 8, max_tokens: 384, enable_block_reuse: false}", {}};
  expect_greedy(references, answer_all(tight, references, &stats));
  EXPECT_GT(stats.preemptions, 0);
}

TEST(Llm, ReadsWhatItSaysItWill) {
  ThreadPool pool(2);
  std::atomic<int64_t> planned = 0;
  std::atomic<int64_t> read = 0;
  const ModelConfig model = read_model_config(kModel).value();
  const EngineConfig engine = parse_engine_config("", "none", {.tp = 2, .ep = 2}, &model).value();
  dist::World world = dist::World::local(2).value();
  const Status status = world.run([&](dist::Communicator& communicator) {
    return Llm::create({.folder = kModel,
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
  const Status status = run_world({}, [&](Llm& llm, dist::Communicator&) -> Status {
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
  const Status status = run_world({}, [&](Llm& llm, dist::Communicator&) -> Status {
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
      run_world({"", "kv_cache_config: {free_gpu_memory_fraction: 0.0000001}", {.tp = 2}},
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
