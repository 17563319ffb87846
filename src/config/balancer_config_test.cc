#include "config/balancer_config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_testing.h"
#include "base/random.h"

namespace wideep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

BalancerConfig parsed(std::string_view yaml) {
  Result<BalancerConfig> config = parse_balancer_config(yaml, "plan.yaml");
  EXPECT_TRUE(config.is_ok()) << config.status().message();
  return config.is_ok() ? std::move(config).value() : BalancerConfig();
}

std::string refusal(std::string_view yaml) {
  const Result<BalancerConfig> config = parse_balancer_config(yaml, "plan.yaml");
  EXPECT_FALSE(config.is_ok()) << yaml;
  return config.status().message();
}

TEST(BalancerConfig, ReadsAPlan) {
  const BalancerConfig config = parsed(
      "initial_global_assignments:\n"
      "  3: [2, 0, 1, 2]\n"
      "  60:\n  - 1\n  - 0\n  - 2\n  - 0\n"
      "num_slots: 4\n"
      "layer_updates_per_iter: 0\n");
  EXPECT_EQ(config.num_slots, 4);
  EXPECT_EQ(config.layer_updates_per_iter, 0);
  ASSERT_EQ(config.initial_global_assignments.size(), 2u);
  EXPECT_THAT(config.initial_global_assignments.at(3), ElementsAre(2, 0, 1, 2));
  EXPECT_THAT(config.initial_global_assignments.at(60), ElementsAre(1, 0, 2, 0));
}

TEST(BalancerConfig, ReadsTheOnlineExampleOfTheReadme) {
  const BalancerConfig config = parsed("num_slots: 288\nlayer_updates_per_iter: 2\n");
  EXPECT_EQ(config.num_slots, 288);
  EXPECT_EQ(config.layer_updates_per_iter, 2);
  EXPECT_TRUE(config.initial_global_assignments.empty());
  EXPECT_FALSE(parsed("layer_updates_per_iter: 1\ninitial_global_assignments: null").num_slots);
}

TEST(BalancerConfig, WritesWhatTensorRtLlmReads) {
  BalancerConfig config;
  config.num_slots = 4;
  config.initial_global_assignments = {{60, {1, 0, 2, 0}}, {3, {2, 0, 1, 2}}};
  EXPECT_EQ(balancer_config_yaml(config),
            "initial_global_assignments:\n"
            "  3: [2, 0, 1, 2]\n"
            "  60: [1, 0, 2, 0]\n"
            "num_slots: 4\n"
            "layer_updates_per_iter: 0\n");
  EXPECT_EQ(balancer_config_yaml({.num_slots = 288, .layer_updates_per_iter = 2}),
            "num_slots: 288\nlayer_updates_per_iter: 2\n");
}

TEST(BalancerConfig, KeysHaveTheDocumentedDefaults) {
  const BalancerConfig config = parsed("num_slots: 288\n");
  EXPECT_EQ(config.replica_choice, ReplicaChoice::kPerBatch);
  EXPECT_EQ(config.combine, CombineMode::kReduced);
  EXPECT_EQ(config.decay, 0.95);
  EXPECT_EQ(config.max_transfers_per_iter, 8);
  EXPECT_EQ(config.min_gain, 0.01);
  EXPECT_EQ(config.weight_source, WeightSource::kPeer);
  EXPECT_EQ(config.algorithm, Algorithm::kRecourse);
}

TEST(BalancerConfig, ReadsAndWritesEveryKey) {
  const std::string text =
      "num_slots: 288\n"
      "layer_updates_per_iter: 2\n"
      "replica_choice: quota\n"
      "combine: exact\n"
      "decay: 0.5\n"
      "max_transfers_per_iter: 3\n"
      "min_gain: 0.125\n"
      "weight_source: host\n"
      "algorithm: balanced\n";
  const BalancerConfig config = parsed(text);
  EXPECT_EQ(config.replica_choice, ReplicaChoice::kQuota);
  EXPECT_EQ(config.combine, CombineMode::kExact);
  EXPECT_EQ(config.decay, 0.5);
  EXPECT_EQ(config.max_transfers_per_iter, 3);
  EXPECT_EQ(config.min_gain, 0.125);
  EXPECT_EQ(config.weight_source, WeightSource::kHost);
  EXPECT_EQ(config.algorithm, Algorithm::kBalanced);
  EXPECT_EQ(balancer_config_yaml(config), text);
  EXPECT_EQ(parsed("replica_choice: Round_Robin").replica_choice, ReplicaChoice::kRoundRobin);
}

TEST(BalancerConfig, RefusesValuesOutOfRange) {
  EXPECT_EQ(refusal("replica_choice: per_bach\n"
                    "combine: sum\n"
                    "decay: 1.01\n"
                    "max_transfers_per_iter: 0\n"
                    "min_gain: -0.1\n"
                    "weight_source: 1\n"
                    "algorithm: deepseek\n"),
            "plan.yaml:1: replica_choice: per_bach: must be round_robin | quota | per_batch (did "
            "you mean \"per_batch\"?)\n"
            "plan.yaml:2: combine: sum: must be reduced | exact\n"
            "plan.yaml:3: decay: 1.01: must be a number 0 to 1\n"
            "plan.yaml:4: max_transfers_per_iter: 0: must be an integer 1 to 32767\n"
            "plan.yaml:5: min_gain: -0.1: must be a number 0 to 1024\n"
            "plan.yaml:6: weight_source: 1: must be peer | host\n"
            "plan.yaml:7: algorithm: deepseek: must be recourse | balanced: it plans from scratch, "
            "use it with `wideep eplb generate --algorithm`");
  EXPECT_THAT(refusal("decay: nan"), HasSubstr("must be a number 0 to 1"));
  EXPECT_THAT(refusal("decay: \"0.5\""), HasSubstr("must be a number 0 to 1"));
  EXPECT_THAT(refusal("min_gain: null"), HasSubstr("min_gain: null: must be a number"));
}

template <typename E>
void expect_names_read_back(std::string_view (*name)(E), Result<E> (*parse)(std::string_view),
                            int count) {
  for (int i = 0; i < count; ++i) {
    const E value = static_cast<E>(i);
    const Result<E> again = parse(name(value));
    ASSERT_TRUE(again.is_ok()) << name(value);
    EXPECT_EQ(*again, value);
  }
  EXPECT_EQ(parse("").status().code(), StatusCode::kInvalidInput);
}

TEST(BalancerConfig, NamesAreReadBack) {
  expect_names_read_back(replica_choice_name, parse_replica_choice, 3);
  expect_names_read_back(combine_mode_name, parse_combine_mode, 2);
  expect_names_read_back(weight_source_name, parse_weight_source, 2);
  expect_names_read_back(algorithm_name, parse_algorithm, 5);
  EXPECT_EQ(parse_replica_choice("Quota").value(), ReplicaChoice::kQuota);
  EXPECT_EQ(parse_replica_choice("round-robin").status().message(),
            "replica_choice round-robin: must be one of round_robin, quota, per_batch; did you "
            "mean round_robin?");
  EXPECT_THAT(parse_algorithm("recours").status().message(), HasSubstr("did you mean recourse?"));
}

TEST(BalancerConfig, RandomPlansReadBack) {
  Random random(1);
  for (int round = 0; round < 50; ++round) {
    BalancerConfig config;
    config.num_slots = 1 + static_cast<int>(random.below(300));
    config.layer_updates_per_iter = static_cast<int>(random.below(5));
    for (uint64_t layers = random.below(20); layers > 0; --layers) {
      std::vector<int>& experts =
          config.initial_global_assignments[static_cast<int>(random.below(200))];
      experts.clear();
      for (int s = 0; s < *config.num_slots; ++s) {
        experts.push_back(static_cast<int>(random.below(1024)));
      }
    }
    const BalancerConfig again = parsed(balancer_config_yaml(config));
    EXPECT_EQ(again.num_slots, config.num_slots);
    EXPECT_EQ(again.layer_updates_per_iter, config.layer_updates_per_iter);
    EXPECT_EQ(again.initial_global_assignments, config.initial_global_assignments);
  }
}

TEST(BalancerConfig, ReportsAllViolationsAtOnce) {
  EXPECT_EQ(
      refusal("num_slot: 4\n"
              "layer_updates_per_iter: -1\n"
              "initial_global_assignments:\n"
              "  x: [0]\n"
              "  3: [0, 1, -2, -3]\n"
              "  4: 7\n"
              "  05: [0]\n"),
      "plan.yaml:1: num_slot: 4: unknown key (did you mean \"num_slots\"?)\n"
      "plan.yaml:2: layer_updates_per_iter: -1: must be an integer 0 to 1024\n"
      "plan.yaml:4: initial_global_assignments: x: a key must be a decoder layer, 0 to 1023\n"
      "plan.yaml:5: initial_global_assignments.3[2]: -2: must be an expert id, 0 to 1023\n"
      "plan.yaml:6: initial_global_assignments.4: 7: must be a list of expert ids, one for "
      "each slot\n"
      "plan.yaml:7: initial_global_assignments: 05: a key must be a decoder layer, 0 to 1023");
}

TEST(BalancerConfig, ListsHaveNumSlotsEntries) {
  EXPECT_EQ(refusal("num_slots: 4\ninitial_global_assignments:\n  3: [0, 1, 2]\n"),
            "plan.yaml:3: initial_global_assignments.3: a list of 3: must have num_slots = 4 "
            "entries");
}

TEST(BalancerConfig, RefusesWrongTypes) {
  EXPECT_THAT(refusal(""), HasSubstr("must be a map with num_slots"));
  EXPECT_THAT(refusal("[1, 2]"), HasSubstr("must be a map with num_slots"));
  EXPECT_THAT(refusal("num_slots: 288.0"), HasSubstr("plan.yaml:1: num_slots: 288.0: must be"));
  EXPECT_THAT(refusal("num_slots: \"288\""), HasSubstr("num_slots: \"288\": must be an integer 1"));
  EXPECT_THAT(refusal("num_slots: 0"), HasSubstr("integer 1 to 32767"));
  EXPECT_THAT(refusal("num_slots: 32768"), HasSubstr("integer 1 to 32767"));
  EXPECT_THAT(refusal("num_slots: 99999999999999999999"), HasSubstr("integer 1 to 32767"));
  EXPECT_THAT(refusal("initial_global_assignments: [1]"), HasSubstr("must be a map of decoder"));
  EXPECT_THAT(refusal("initial_global_assignments: {3: [0, 1024]}"), HasSubstr("0 to 1023"));
  EXPECT_THAT(refusal("initial_global_assignments: {3: [[0]]}"), HasSubstr("a list of 1: must"));
}

TEST(BalancerConfig, NamesTheExtraKeyOfOtherPlanners) {
  EXPECT_THAT(refusal("num_slots: 8\nep_size: 4\n"),
              HasSubstr("plan.yaml:2: ep_size: 4: is not a key of the load balancer"));
}

TEST(BalancerConfig, ReadsFiles) {
  const TemporaryFolder folder;
  const std::string path = folder.write("balancer.yaml", "num_slots: 8\n");
  const Result<BalancerConfig> config = read_balancer_config(path);
  ASSERT_TRUE(config.is_ok());
  EXPECT_EQ(config->num_slots, 8);
  EXPECT_EQ(read_balancer_config(path + ".none").status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace wideep
