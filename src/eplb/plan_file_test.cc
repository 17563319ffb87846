#include "eplb/plan_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/file.h"
#include "base/file_testing.h"

namespace wideep::eplb {
namespace {

using ::testing::HasSubstr;

Status read_text(const std::string& text, int num_experts = 0) {
  const TemporaryFolder folder;
  return read_plan(folder.write("plan.yaml", text), num_experts).status();
}

TEST(PlanFile, RoundTrip) {
  Plan plan;
  plan.num_experts = 3;
  plan.num_slots = 4;
  plan.layer_updates_per_iter = 2;
  plan.layers = {3, 5};
  plan.slots = {0, 1, 2, 0, 2, 1, 0, 1};
  const TemporaryFolder folder;
  const std::string path = folder / "plan.yaml";
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
  EXPECT_EQ(read_plan("no/such/plan.yaml").status().code(), StatusCode::kNotFound);
}

TEST(PlanFile, AFailedWriteLeavesTheOldPlan) {
  Plan plan;
  plan.num_experts = plan.num_slots = 1;
  plan.layers = {0};
  plan.slots = {0};
  const TemporaryFolder folder;
  const std::string path = folder.write("plan.yaml", "what was there");
  const FileSizeLimit full_disk(4);
  EXPECT_EQ(write_plan(path, plan).code(), StatusCode::kIo);
  EXPECT_EQ(*read_file(path), "what was there");
}

}  // namespace
}  // namespace wideep::eplb
