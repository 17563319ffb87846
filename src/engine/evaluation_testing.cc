#include "engine/evaluation_testing.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "config/mapping.h"
#include "dist/world.h"

namespace wideep::engine {
namespace {

void expect_greedy(const Json& expected, const Evaluation& actual, double margin) {
  const auto tokens = expected["greedy"].get<std::vector<int>>();
  const auto margins = expected["greedy_margin"].get<std::vector<double>>();
  for (size_t i = 0; i < std::min(tokens.size(), actual.greedy.size()); ++i) {
    if (tokens[i] == actual.greedy[i]) continue;
    EXPECT_LT(margins[i], margin) << actual.name << ", step " << i;
    return;  // what follows is another text
  }
}

struct RoutingMatch {
  int64_t same = 0;
  int64_t all = 0;
};

void count_routing(const Json& expected, const Evaluation& actual, RoutingMatch& match) {
  if (!expected.contains("routed_experts") || actual.routed_experts.empty()) return;
  for (const auto& [layer, tokens] : expected["routed_experts"].items()) {
    const auto& own = actual.routed_experts.at(std::stoi(layer));
    ASSERT_EQ(own.size(), tokens.size());
    for (size_t t = 0; t < tokens.size(); ++t) {
      const auto ids = tokens[t].get<std::set<int>>();
      match.same += ids == std::set<int>(own[t].begin(), own[t].end());
      ++match.all;
    }
  }
}

}  // namespace

std::string path_of(const char* relative) {
  return std::string(WIDEEP_SOURCE_DIR "/") + relative;
}

Result<std::vector<Evaluation>> run(const Fixture& fixture, const Layout& layout,
                                    std::span<const EvaluationPrompt> prompts, int num_greedy,
                                    DType dtype) {
  EvaluationJob job;
  job.folder = path_of(fixture.folder);
  ASSIGN_OR_RETURN(job.model, read_model_config(job.folder));
  job.engine.parallel = layout.parallel;
  job.engine.moe.max_num_tokens = layout.moe_max_num_tokens;
  job.engine.max_num_tokens = layout.max_num_tokens;
  if (layout.balancer) job.engine.moe.backend = MoeBackend::kWideEp;
  job.engine.moe.load_balancer = layout.balancer;
  job.dtype = dtype;
  job.device = layout.device;
  job.records_routing = !layout.uses_graphs;
  job.engine.cuda_graph.reset();
  if (layout.uses_graphs) job.engine.cuda_graph = CudaGraphConfig{{1, 2, 4}, 4, true};
  job.rope_frequency_dtype = fixture.rope_frequency_dtype;
  job.num_greedy = num_greedy;
  ASSIGN_OR_RETURN(const Mapping mapping, Mapping::create(layout.parallel));
  ASSIGN_OR_RETURN(dist::World world, dist::World::local(mapping.world()));
  ThreadPool pool(2);
  std::vector<Evaluation> result;
  RETURN_IF_ERROR(world.run([&](dist::Communicator& communicator) -> Status {
    ASSIGN_OR_RETURN(std::vector<Evaluation> own, evaluate(job, prompts, pool, communicator));
    if (communicator.rank() == 0) result = std::move(own);
    return Status::ok();
  }));
  return result;
}

Reference read_reference(const Fixture& fixture, int max_tokens) {
  Reference reference;
  const Json list = read_json(path_of(fixture.reference)).value();
  for (const Json& entry : list) {
    auto ids = entry["token_ids"].get<std::vector<int>>();
    if (std::ssize(ids) > max_tokens) continue;
    reference.prompts.push_back({entry["name"].get<std::string>(), std::move(ids)});
    reference.expected.push_back(entry);
  }
  return reference;
}

double logits_error(const Json& expected, const Evaluation& actual) {
  std::map<int, float> logits(actual.top_logits.begin(), actual.top_logits.end());
  double difference = 0;
  double norm = 0;
  for (const Json& pair : expected["last_logits_top20"]) {
    const auto logit = pair[1].get<double>();
    norm += logit * logit;
    const auto found = logits.find(pair[0].get<int>());
    if (found == logits.end())
      continue;  // the twentieth may be another: equal within the tolerance
    difference += (logit - found->second) * (logit - found->second);
  }
  return std::sqrt(difference / norm);
}

void expect_reference(const Fixture& fixture, const Layout& layout, const Tolerance& tolerance) {
  const Reference reference = read_reference(fixture, 4096);
  ASSERT_FALSE(reference.prompts.empty());
  const auto results = run(fixture, layout, reference.prompts, 24);
  ASSERT_TRUE(results.is_ok()) << results.status().message();
  RoutingMatch match;
  for (size_t i = 0; i < results->size(); ++i) {
    const Evaluation& actual = results.value()[i];
    const Json& expected = reference.expected[i];
    EXPECT_EQ(actual.top_logits.size(), 20U);
    EXPECT_LE(logits_error(expected, actual), tolerance.logits) << actual.name;
    expect_greedy(expected, actual, tolerance.greedy_margin);
    count_routing(expected, actual, match);
    ASSERT_EQ(actual.mean_nll.has_value(), !expected["mean_nll"].is_null());
    if (actual.mean_nll) {
      EXPECT_NEAR(*actual.mean_nll, expected["mean_nll"].get<double>(), tolerance.nll)
          << actual.name;
    }
  }
  EXPECT_GE(match.same, match.all * 0.999);
}

ParallelConfig sizes(int tp, int pp, int cp, int ep, bool attention_dp) {
  ParallelConfig parallel;
  parallel.tensor_parallel_size = tp;
  parallel.pipeline_parallel_size = pp;
  parallel.context_parallel_size = cp;
  if (ep > 1) parallel.moe_expert_parallel_size = ep;
  parallel.enable_attention_dp = attention_dp;
  return parallel;
}

ParallelConfig hybrid(int tp, int moe_tp, int moe_ep, bool attention_dp) {
  ParallelConfig parallel = sizes(tp, 1, 1, moe_ep, attention_dp);
  parallel.moe_tensor_parallel_size = moe_tp;
  return parallel;
}

const std::vector<Evaluation>& one_rank(const Fixture& fixture, DeviceKind device,
                                        std::span<const EvaluationPrompt> prompts) {
  static std::map<std::pair<std::string, DeviceKind>, std::vector<Evaluation>> cache;
  auto [place, is_new] = cache.try_emplace({fixture.folder, device});
  Layout layout;
  layout.device = device;
  if (is_new) place->second = run(fixture, layout, prompts, 8).value();
  return place->second;
}

void expect_same_as_one_rank(const Fixture& fixture, const Layout& layout) {
  const Reference reference = read_reference(fixture, 260);
  const std::vector<Evaluation>& expected = one_rank(fixture, layout.device, reference.prompts);
  const auto results = run(fixture, layout, reference.prompts, 8);
  ASSERT_TRUE(results.is_ok()) << results.status().message();
  ASSERT_EQ(results->size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const Evaluation& actual = results.value()[i];
    EXPECT_EQ(actual.name, expected[i].name);
    EXPECT_EQ(actual.greedy, expected[i].greedy) << actual.name;
    EXPECT_NEAR(actual.logits_l2, expected[i].logits_l2, 1e-4 * expected[i].logits_l2);
    EXPECT_EQ(actual.mean_nll.has_value(), expected[i].mean_nll.has_value());
    EXPECT_NEAR(actual.mean_nll.value_or(0), expected[i].mean_nll.value_or(0), 1e-5);
    EXPECT_EQ(actual.routed_experts, expected[i].routed_experts) << actual.name;
  }
}

}  // namespace wideep::engine
