#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/file_testing.h"
#include "base/json.h"
#include "cli/commands.h"

namespace wideep::cli {
namespace {

using ::testing::HasSubstr;

class EplbReplayTest : public ::testing::Test {
 protected:
  EplbReplayTest() {
    folder_.write("load.json", R"({"logical_count": [[90, 10, 10, 10], [10, 10, 10, 90]]})");
    folder_.write("shifted.json", R"({"logical_count": [[10, 10, 10, 90], [90, 10, 10, 10]]})");
    folder_.write("plan.yaml",
                  "num_slots: 6\n"
                  "layer_updates_per_iter: 0\n"
                  "initial_global_assignments:\n"
                  "  0: [0, 1, 2, 0, 3, 2]\n"
                  "  1: [3, 1, 2, 3, 0, 2]\n");
  }

  std::string path(const std::string& name) const { return folder_ / name; }

  // The exit code; what is printed goes to output_ and error_.
  int run(std::vector<std::string> flags) {
    CLI::App app("test");
    add_eplb_replay(app);
    flags.insert(flags.begin(), "replay");
    std::reverse(flags.begin(), flags.end());  // CLI11 takes the arguments from the back
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    int code = 0;
    try {
      app.parse(flags);
    } catch (const CLI::RuntimeError& error) {
      code = error.get_exit_code();
    } catch (const CLI::ParseError&) {
      code = 2;
    }
    output_ = ::testing::internal::GetCapturedStdout();
    error_ = ::testing::internal::GetCapturedStderr();
    return code;
  }

  std::vector<std::string> flags(int iterations, std::vector<std::string> more) const {
    std::vector<std::string> all = {"--load",
                                    path("load.json"),
                                    "--ep_size",
                                    "2",
                                    "--top_k",
                                    "2",
                                    "--tokens_per_rank",
                                    "4096",
                                    "--iterations",
                                    std::to_string(iterations)};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  TemporaryFolder folder_;
  std::string output_;
  std::string error_;
};

TEST_F(EplbReplayTest, PlanAgainstNone) {
  ASSERT_EQ(run(flags(20, {"--plan", path("plan.yaml"), "--replica_choice", "per_batch", "--json",
                           path("out.json")})),
            0)
      << error_;
  EXPECT_THAT(output_, HasSubstr("imbalance ratio, mean"));
  const Json json = read_json(path("out.json")).value();
  // The hot expert and its neighbour have 100 of 120: 2/3 over the mean; the plan spreads it.
  EXPECT_NEAR(json["none"]["imbalance"]["mean"].get<double>(), 2.0 / 3, 0.05);
  EXPECT_LT(json["plan"]["imbalance"]["mean"].get<double>(), 0.02);
  EXPECT_LT(json["plan"]["step_time_s"]["mean"].get<double>(),
            json["none"]["step_time_s"]["mean"].get<double>());
  EXPECT_EQ(json["plan"]["series"]["imbalance"].size(), 20u);
  EXPECT_EQ(json["layers"].size(), 2u);
  EXPECT_EQ(json["migration"]["bytes"], 0);
}

TEST_F(EplbReplayTest, OnlineFollowsAShift) {
  ASSERT_EQ(run(flags(60, {"--num_slots", "6", "--shift", path("shifted.json") + "@30", "--online",
                           "--layer_updates_per_iter", "1", "--replica_choice", "per_batch",
                           "--json", path("out.json")})),
            0)
      << error_;
  EXPECT_THAT(output_, HasSubstr("migration: "));
  const Json json = read_json(path("out.json")).value();
  EXPECT_GT(json["migration"]["transfers"].get<int>(), 0);
  const auto series = json["plan"]["series"]["imbalance"].get<std::vector<double>>();
  EXPECT_LT(series.back(), json["none"]["imbalance"]["mean"].get<double>() / 2);
}

TEST_F(EplbReplayTest, ErrorsSayWhatToMend) {
  const auto error_of = [&](std::vector<std::string> more) {
    EXPECT_EQ(run(flags(20, std::move(more))), 2);
    EXPECT_EQ(output_, "");
    return error_;
  };
  EXPECT_THAT(error_of({"--online"}), HasSubstr("--layer_updates_per_iter"));
  EXPECT_THAT(error_of({"--shift", path("shifted.json")}), HasSubstr("@ITERATION"));
  EXPECT_THAT(
      error_of({"--shift", path("shifted.json") + "@9", "--shift", path("shifted.json") + "@9"}),
      HasSubstr("must ascend"));
  EXPECT_THAT(error_of({"--num_slots", "5"}), HasSubstr("--num_slots 5"));
  EXPECT_THAT(error_of({"--plan", path("plan.yaml"), "--num_slots", "8"}),
              HasSubstr("the plan has 6 slots"));
  EXPECT_THAT(error_of({"--profile", "v100"}), HasSubstr("--profile v100"));
  EXPECT_THAT(error_of({"--replica_choice", "random"}), HasSubstr("round_robin"));
  EXPECT_THAT(error_of({"--plan", path("missing.yaml")}), HasSubstr("missing.yaml"));
}

}  // namespace
}  // namespace wideep::cli
