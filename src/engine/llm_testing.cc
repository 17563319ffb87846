#include "engine/llm_testing.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "dist/world.h"

namespace wideep::engine {
namespace {

const std::string kReference = WIDEEP_SOURCE_DIR "/tests/models/dsv3-tiny-reference.json";
constexpr size_t kLongPrompt = 512;

}  // namespace

std::vector<LlmReference> read_llm_references(double margin) {
  std::vector<LlmReference> references;
  for (const Json& entry : read_json(kReference).value()) {
    LlmReference reference{entry["name"], entry["token_ids"], {}};
    if (reference.prompt.size() > kLongPrompt) continue;
    for (size_t step = 0; step < entry["greedy"].size(); ++step) {
      if (entry["greedy_margin"][step].get<double>() < margin) break;
      reference.greedy.push_back(entry["greedy"][step]);
    }
    if (!reference.greedy.empty()) references.push_back(std::move(reference));
  }
  return references;
}

Status run_llm(const LlmCase& options,
               const std::function<Status(Llm&, dist::Communicator&)>& body) {
  ASSIGN_OR_RETURN(const ModelConfig model, read_model_config(kLlmModel));
  ASSIGN_OR_RETURN(const EngineConfig engine,
                   parse_engine_config(options.config, "test.yaml", options.overrides, &model));
  const Mapping mapping = Mapping::create(engine.parallel).value();
  ASSIGN_OR_RETURN(dist::World world, dist::World::local(mapping.world() * options.replicas));
  ThreadPool pool(2);
  return world.run([&](dist::Communicator& communicator) -> Status {
    ASSIGN_OR_RETURN(const std::unique_ptr<Llm> llm, Llm::create({.folder = kLlmModel,
                                                                  .model = model,
                                                                  .engine = engine,
                                                                  .dtype = DType::kF32,
                                                                  .device = options.device,
                                                                  .pool = &pool,
                                                                  .on_read = {},
                                                                  .on_iteration = {}},
                                                                 communicator));
    return body(*llm, communicator);
  });
}

std::vector<std::vector<int>> answer_references(const LlmCase& options,
                                                const std::vector<LlmReference>& references,
                                                RunStats* stats) {
  std::vector<std::vector<int>> answers(references.size());
  const Status status = run_llm(options, [&](Llm& llm, dist::Communicator& world) -> Status {
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

void expect_greedy(const std::vector<LlmReference>& references,
                   const std::vector<std::vector<int>>& answers) {
  ASSERT_EQ(answers.size(), references.size());
  for (size_t i = 0; i < references.size(); ++i) {
    EXPECT_EQ(answers[i], references[i].greedy) << references[i].name;
  }
}

}  // namespace wideep::engine
