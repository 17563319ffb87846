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
  EXPECT_EQ(balancer_config_yaml(
                {.num_slots = 288, .layer_updates_per_iter = 2, .initial_global_assignments = {}}),
            "num_slots: 288\nlayer_updates_per_iter: 2\n");
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
