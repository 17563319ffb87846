// The models against references made by another implementation (Hugging Face transformers,
// float32), on one rank and in every way of splitting them.

#include "engine/evaluation_testing.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <set>

#include "base/json.h"
#include "config/mapping.h"
#include "dist/world.h"

namespace wideep::engine {
namespace {

using ::testing::HasSubstr;

TEST(Evaluation, OfDeepSeekMatchesTheReference) {
  expect_reference(kDeepSeek, {}, {});
}
TEST(Evaluation, OfQwen3MatchesTheReference) {
  expect_reference(kQwen3, {}, {});
}
TEST(Evaluation, OfLlama4MatchesTheReference) {
  expect_reference(kLlama4, {}, {});
}

// Transformers' own from_pretrained(dtype=float32) is as far from these references, for the same
// reason; the figures are what it measured there.
TEST(Evaluation, WithExactFrequenciesEqualsTransformers) {
  Fixture exact = kQwen3;
  exact.rope_frequency_dtype = DType::kF32;
  const Reference reference = read_reference(exact, 4096);
  const auto results = run(exact, {}, reference.prompts, 0);
  ASSERT_TRUE(results.is_ok()) << results.status().message();
  const std::vector<double> measured = {1.457e-7, 0.00056913, 0.00135782, 0.00539734, 0.00850420};
  ASSERT_EQ(results->size(), measured.size());
  for (size_t i = 0; i < measured.size(); ++i) {
    EXPECT_NEAR(logits_error(reference.expected[i], results.value()[i]), measured[i], 1e-5);
  }
}

TEST(Evaluation, InBf16IsCloseToTheReference) {
  const Reference reference = read_reference(kDeepSeek, 300);
  const auto results = run(kDeepSeek, {}, reference.prompts, 0, DType::kBF16);
  ASSERT_TRUE(results.is_ok()) << results.status().message();
  for (size_t i = 0; i < results->size(); ++i) {
    EXPECT_NEAR(*results.value()[i].mean_nll, reference.expected[i]["mean_nll"].get<double>(), 0.02)
        << results.value()[i].name;
  }
}

struct NamedLayout {
  const char* name;
  Layout layout;
};

class LayoutTest : public testing::TestWithParam<NamedLayout> {};

TEST_P(LayoutTest, OfDeepSeekGivesTheTokensOfOneRank) {
  expect_same_as_one_rank(kDeepSeek, GetParam().layout);
}

ParallelConfig uneven_stages() {
  ParallelConfig parallel = sizes(1, 3, 1);
  parallel.pp_partition = {1, 3, 1};
  return parallel;
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, LayoutTest,
    testing::Values(NamedLayout{"Tp2", {sizes(2, 1, 1)}}, NamedLayout{"Tp4", {sizes(4, 1, 1)}},
                    NamedLayout{"Tp4Ep4", {sizes(4, 1, 1, 4)}},
                    NamedLayout{"AttentionDp2", {sizes(2, 1, 1, 1, true)}},
                    NamedLayout{"AttentionDp4Ep4", {sizes(4, 1, 1, 4, true)}},
                    NamedLayout{"AttentionDp8Ep8", {sizes(8, 1, 1, 8, true)}},
                    NamedLayout{"AttentionDp8MoeTp8", {sizes(8, 1, 1, 1, true)}},
                    NamedLayout{"Etp2x2", {hybrid(4, 2, 2, false)}},
                    NamedLayout{"AttentionDpEtp2x2", {hybrid(4, 2, 2, true)}},
                    NamedLayout{"AttentionDp4Ep4Chunked", {sizes(4, 1, 1, 4, true), 96}},
                    NamedLayout{"Pp2", {sizes(1, 2, 1)}},
                    NamedLayout{"Pp3Uneven", {uneven_stages()}},
                    NamedLayout{"Cp2", {sizes(1, 1, 2)}}, NamedLayout{"Cp3", {sizes(1, 1, 3)}},
                    NamedLayout{"Tp2Pp2", {sizes(2, 2, 1)}},
                    NamedLayout{"Tp2Cp2Pp2", {sizes(2, 2, 2)}},
                    NamedLayout{"SmallChunks", {sizes(1, 1, 1), std::nullopt, 7}}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(Evaluation, OfGroupedQueryModelsIsTheSameInLayouts) {
  for (const Fixture& fixture : {kQwen3, kLlama4}) {
    for (const ParallelConfig& parallel :
         {sizes(2, 1, 1), sizes(4, 1, 1, 2), sizes(4, 1, 1, 4, true), sizes(1, 2, 1),
          sizes(1, 1, 2)}) {
      SCOPED_TRACE(fmt::format("{} tp {} pp {} cp {}", fixture.folder,
                               parallel.tensor_parallel_size, parallel.pipeline_parallel_size,
                               parallel.context_parallel_size));
      expect_same_as_one_rank(fixture, {parallel});
    }
  }
}

// Two spare slots a rank; where the experts do not divide, more.
BalancerConfig balancer_of(int ep, CombineMode combine) {
  BalancerConfig balancer;
  balancer.num_slots = (64 + ep - 1) / ep * ep + 2 * ep;
  balancer.combine = combine;
  return balancer;
}

Layout wide_ep(int ep, const BalancerConfig& balancer) {
  Layout layout = {sizes(ep, 1, 1, ep, true)};
  layout.balancer = balancer;
  return layout;
}

// With combine: exact the logits are those of one rank to the last bit: for every EP size, plan,
// replica choice and chunking, and while experts move.
void expect_bits_of_one_rank(const Layout& layout) {
  const Reference reference = read_reference(kDeepSeek, 260);
  const std::vector<Evaluation>& expected =
      one_rank(kDeepSeek, DeviceKind::kCpu, reference.prompts);
  const auto results = run(kDeepSeek, layout, reference.prompts, 8);
  ASSERT_TRUE(results.is_ok()) << results.status().message();
  for (size_t i = 0; i < expected.size(); ++i) {
    const Evaluation& actual = results.value()[i];
    EXPECT_EQ(actual.greedy, expected[i].greedy) << actual.name;
    EXPECT_EQ(actual.top_logits, expected[i].top_logits) << actual.name;
    EXPECT_EQ(actual.logits_l2, expected[i].logits_l2) << actual.name;
    EXPECT_EQ(actual.mean_nll, expected[i].mean_nll) << actual.name;
    EXPECT_EQ(actual.routed_experts, expected[i].routed_experts) << actual.name;
  }
}

TEST(WideEpEvaluation, ExactIsOneRankForEveryEpSize) {
  for (int ep = 1; ep <= 9; ++ep) {
    SCOPED_TRACE(fmt::format("EP {}", ep));
    expect_bits_of_one_rank(wide_ep(ep, balancer_of(ep, CombineMode::kExact)));
  }
}

TEST(WideEpEvaluation, ExactIsOneRankForEveryReplicaChoiceAndChunking) {
  for (const ReplicaChoice choice :
       {ReplicaChoice::kRoundRobin, ReplicaChoice::kQuota, ReplicaChoice::kPerBatch}) {
    SCOPED_TRACE(replica_choice_name(choice));
    BalancerConfig balancer = balancer_of(4, CombineMode::kExact);
    balancer.replica_choice = choice;
    Layout layout = wide_ep(4, balancer);
    layout.moe_max_num_tokens = 50;
    expect_bits_of_one_rank(layout);
  }
}

TEST(WideEpEvaluation, ExactIsOneRankWhileExpertsMove) {
  BalancerConfig balancer = balancer_of(9, CombineMode::kExact);
  balancer.layer_updates_per_iter = 8;  // every layer in every iteration
  balancer.min_gain = 0;
  balancer.decay = 0.2;
  for (const WeightSource source : {WeightSource::kPeer, WeightSource::kHost}) {
    balancer.weight_source = source;
    expect_bits_of_one_rank(wide_ep(9, balancer));
  }
}

TEST(WideEpEvaluation, ReducedGivesTheTokensOfOneRank) {
  for (const int ep : {2, 5, 8}) {
    SCOPED_TRACE(fmt::format("EP {}", ep));
    BalancerConfig balancer = balancer_of(ep, CombineMode::kReduced);
    balancer.layer_updates_per_iter = 2;
    expect_same_as_one_rank(kDeepSeek, wide_ep(ep, balancer));
  }
}

TEST(WideEpEvaluation, RunsTheOtherFamiliesOverStagesAndContexts) {
  for (const Fixture& fixture : {kQwen3, kLlama4}) {
    for (ParallelConfig parallel :
         {sizes(2, 1, 1, 2, true), sizes(2, 2, 1, 2, true), sizes(2, 1, 2, 2, true)}) {
      SCOPED_TRACE(fmt::format("{} pp {} cp {}", fixture.folder, parallel.pipeline_parallel_size,
                               parallel.context_parallel_size));
      Layout layout = {parallel};
      layout.balancer.emplace();
      layout.balancer->num_slots =
          read_model_config(path_of(fixture.folder)).value().moe.num_experts + 2;
      layout.balancer->layer_updates_per_iter = 1;
      expect_same_as_one_rank(fixture, layout);
    }
  }
}

TEST(Evaluation, RefusesLayoutsThatDoNotFit) {
  const std::vector<EvaluationPrompt> prompts = {{"a", {1, 2}}};
  const auto heads = run(kDeepSeek, {sizes(8, 1, 1)}, prompts, 0);
  ASSERT_FALSE(heads.is_ok());
  EXPECT_THAT(heads.status().message(),
              HasSubstr("tensor_parallel_size: 8: must divide the 4 attention heads"));
  const auto stages = run(kQwen3, {sizes(1, 4, 1)}, prompts, 0);
  ASSERT_FALSE(stages.is_ok());
  EXPECT_THAT(stages.status().message(), HasSubstr("pipeline_parallel_size: 4"));
  EXPECT_THAT(stages.status().message(), HasSubstr("3 layers"));
}

TEST(Evaluation, RefusesTokensTheModelLacks) {
  const std::vector<EvaluationPrompt> prompts = {{"good", {1}}, {"bad", {1, 8192}}};
  const auto results = run(kDeepSeek, {}, prompts, 0);
  ASSERT_FALSE(results.is_ok());
  EXPECT_THAT(results.status().message(),
              HasSubstr("bad: token id 8192: the model has 8192 tokens"));
}

TEST(EvaluationPrompts, NameTheBadEntry) {
  const auto message = [](std::string_view json) {
    return parse_evaluation_prompts(json, "p.json").status().message();
  };
  EXPECT_THAT(message("{}"), HasSubstr("p.json: must be a list"));
  EXPECT_THAT(message(R"([{"token_ids": [1]}])"), HasSubstr("entry 0"));
  EXPECT_THAT(message(R"([{"name": "a", "token_ids": [1]}, {"name": "b", "token_ids": []}])"),
              HasSubstr("entry 1: \"token_ids\""));
  EXPECT_THAT(message(R"([{"name": "a", "token_ids": [-1]}])"), HasSubstr("token_ids"));
  EXPECT_THAT(message(R"([{"name": "a", "token_ids": ["x"]}])"), HasSubstr("token_ids"));
}

}  // namespace
}  // namespace wideep::engine
