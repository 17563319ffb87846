#include "eplb/plan_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/file.h"

namespace wideep::eplb {
namespace {

using ::testing::HasSubstr;

std::string path_for(const std::string& name) {
  return ::testing::TempDir() + "/" + name;
}

Status read_text(const std::string& text, int num_experts = 0) {
  const std::string path = path_for("plan.yaml");
  EXPECT_TRUE(write_file(path, text).is_ok());
  return read_plan(path, num_experts).status();
}

TEST(PlanFile, RoundTrip) {
  Plan plan;
  plan.num_experts = 3;
  plan.num_slots = 4;
  plan.layer_updates_per_iter = 2;
  plan.layers = {3, 5};
  plan.slots = {0, 1, 2, 0, 2, 1, 0, 1};
  const std::string path = path_for("round_trip.yaml");
  ASSERT_TRUE(write_plan(path, plan).is_ok());
  const auto read = read_plan(path);
  ASSERT_TRUE(read.is_ok()) << read.status().message();
  EXPECT_EQ(read->num_experts, 3);
  EXPECT_EQ(read->num_slots, 4);
  EXPECT_EQ(read->layer_updates_per_iter, 2);
  EXPECT_EQ(read->layers, plan.layers);
  EXPECT_EQ(read->slots, plan.slots);
}

TEST(PlanFile, RefusesWhatIsNoPlan) {
  EXPECT_THAT(read_text("num_slots: 4\n").message(), HasSubstr("wideep eplb generate"));
  EXPECT_THAT(read_text("num_slots: 4\ninitial_global_assignments:\n  3: [0, 1, 2]\n").message(),
              HasSubstr("must have num_slots = 4 entries"));
  EXPECT_THAT(read_text("num_slots: 3\ninitial_global_assignments:\n  3: [0, 1, 1]\n", 3).message(),
              HasSubstr("expert 2 has no slot"));
  EXPECT_THAT(read_text("num_slots: 3\ninitial_global_assignments:\n  3: [0, 1, 7]\n", 2).message(),
              HasSubstr("expert 7 is not in [0, 2)"));
  EXPECT_EQ(read_plan(path_for("missing.yaml")).status().code(), StatusCode::kNotFound);
}

TEST(PlanFile, AFailedWriteLeavesTheOldPlan) {
  Plan plan;
  plan.num_experts = plan.num_slots = 1;
  plan.layers = {0};
  plan.slots = {0};
  EXPECT_FALSE(write_plan(path_for("no/such/folder/plan.yaml"), plan).is_ok());
}

}  // namespace
}  // namespace wideep::eplb
