#include <gmock/gmock.h>

#include "base/file.h"
#include "base/file_testing.h"
#include "base/json.h"
#include "cli/cli_testing.h"
#include "cli/commands.h"
#include "eplb/plan_file.h"
#include "eplb/statistics.h"
#include "eplb/statistics_writer.h"

namespace wideep::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Statistics of two ranks, iterations 100 and 101, layers 3 and 4, four experts, top-2. Summed over
// the ranks: layer 3 has 12 4 0 0 and 6 2 8 0, layer 4 has 1 2 3 4 and 4 3 2 1.
class EplbReport : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::vector<std::vector<eplb::RankCounts>> counts = {{{100, 3, {10, 4, 0, 0}},
                                                                {100, 4, {1, 0, 3, 0}},
                                                                {101, 3, {6, 0, 0, 0}},
                                                                {101, 4, {4, 3, 0, 0}}},
                                                               {{100, 3, {2, 0, 0, 0}},
                                                                {100, 4, {0, 2, 0, 4}},
                                                                {101, 3, {0, 2, 8, 0}},
                                                                {101, 4, {0, 0, 2, 1}}}};
    statistics_ = folder_ / "expert_statistic";
    ASSERT_TRUE(eplb::write_statistics(statistics_, 4, 2, counts).is_ok());
    // Ranks {0 0 1} {0 2 3} in layer 3, {0 1 2} {3 2 1} in layer 4.
    plan_ = folder_ / "plan.yaml";
    ASSERT_TRUE(eplb::write_plan(plan_, {.num_experts = 4,
                                         .num_slots = 6,
                                         .layers = {3, 4},
                                         .slots = {0, 0, 1, 0, 2, 3, 0, 1, 2, 3, 2, 1}})
                    .is_ok());
  }

  // Layer 3: tokens {0 1} {0 2} on rank 0, {0 1} on rank 1; layer 4: {2 3}.
  void write_raw() {
    ASSERT_TRUE(eplb::write_raw_statistics(statistics_, {{0, 100, 3, 2, {0, 1, 0, 2}},
                                                         {0, 100, 4, 2, {2, 3}},
                                                         {1, 101, 3, 2, {0, 1}},
                                                         {1, 101, 4, 2, {}}})
                    .is_ok());
  }

  CommandResult report(std::vector<std::string> flags) {
    flags.insert(flags.begin(), {"report", "--expert_statistic_path", statistics_});
    return run_command(add_eplb_report, std::move(flags));
  }

  CommandResult cooccurrence(std::vector<std::string> flags) {
    flags.insert(flags.begin(), "report-cooccurrence");
    return run_command(add_eplb_report_cooccurrence, std::move(flags));
  }

  CommandResult send_ranks(std::vector<std::string> flags) {
    flags.insert(flags.begin(), "report-send-ranks");
    return run_command(add_eplb_report_send_ranks, std::move(flags));
  }

  Json json(const std::string& name) { return read_json(folder_ / name).value(); }

  // [3 tokens, 2 layers, top-2] u1, the tokens of write_raw and one that was not routed.
  std::string write_trace() {
    std::string header = "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 2, 2), }";
    header.resize(117, ' ');
    header += '\n';
    const std::string ids("\x00\x01\x02\x03\x00\x02\xff\xff\x00\x01\xff\xff", 12);
    return folder_.write("trace.npy", std::string("\x93NUMPY\x01\x00\x76\x00", 10) + header + ids);
  }

  TemporaryFolder folder_;
  std::string statistics_;
  std::string plan_;
};

TEST_F(EplbReport, PrintsTheTable) {
  const CommandResult result = report({});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out,
            "Load statistics:\n"
            "         mean       std  imbalance-ratio\n"
            "3         8.0  5.656854             0.50\n"
            "4         5.0  2.828427             0.40\n"
            "average   6.5  4.242641             0.45\n");
  EXPECT_THAT(result.err, IsEmpty());
}

TEST_F(EplbReport, TakesAHalfOpenWindow) {
  EXPECT_EQ(report({"--iter_start", "100", "--iter_stop", "101"}).out,
            "Load statistics:\n"
            "         mean        std  imbalance-ratio\n"
            "3         8.0  11.313708              1.0\n"
            "4         5.0   2.828427              0.4\n"
            "average   6.5   7.071068              0.7\n");
}

TEST_F(EplbReport, ReportsEveryExpert) {
  EXPECT_EQ(report({"--per_expert"}).out,
            "Load statistics:\n"
            "         mean       std  imbalance-ratio\n"
            "3        4.00  4.654169             1.50\n"
            "4        2.50  1.290994             0.60\n"
            "average  3.25  2.972582             1.05\n");
}

TEST_F(EplbReport, ProjectsAPlan) {
  const CommandResult result = report({"--projection_eplb_config_path", plan_, "--ep_size", "2"});
  EXPECT_EQ(result.exit_code, 0);
  // Layer 3: ranks 12 4 and 6 10; layer 4: 3.5 6.5 and 6.5 3.5.
  EXPECT_EQ(result.out,
            "Load statistics:\n"
            "         mean       std  imbalance-ratio\n"
            "3         8.0  4.242641           0.3750\n"
            "4         5.0  2.121320           0.3000\n"
            "average   6.5  3.181981           0.3375\n");
  EXPECT_THAT(result.err, IsEmpty());
  // The same two ranks, but nobody said that the plan is for them.
  const CommandResult guessed = report({"--projection_eplb_config_path", plan_});
  EXPECT_EQ(guessed.out, result.out);
  EXPECT_THAT(guessed.err, HasSubstr("projected on 2 ranks"));
}

// Recorded on two ranks with six slots, 0 0 1 2 3 3 in every layer, where the first replica of
// expert 0 took three quarters of its tokens.
TEST_F(EplbReport, ShowsSlotsAsTheyWereAndProjectsExperts) {
  Result<eplb::StatisticsWriter> writer = eplb::StatisticsWriter::create(
      statistics_, {.num_experts = 4, .top_k = 2, .num_slots = 6, .ep_size = 2});
  ASSERT_TRUE(writer.is_ok()) << writer.status().message();
  const std::vector<eplb::RankCounts> slots = {{100, 3, {6, 2, 1, 1, 1, 1}},
                                               {100, 4, {6, 2, 0, 4, 0, 0}}};
  const std::vector<eplb::RankCounts> experts = {{100, 3, {8, 1, 1, 2}}, {100, 4, {8, 0, 4, 0}}};
  const std::vector<eplb::RankCounts> slots_of_idle = {{100, 3, {0, 0, 0, 0, 0, 0}},
                                                       {100, 4, {0, 0, 0, 0, 0, 0}}};
  const std::vector<eplb::RankCounts> experts_of_idle = {{100, 3, {0, 0, 0, 0}},
                                                         {100, 4, {0, 0, 0, 0}}};
  ASSERT_TRUE(writer->add_counts(0, slots).is_ok());
  ASSERT_TRUE(writer->add_counts(1, slots_of_idle).is_ok());
  ASSERT_TRUE(writer->add_expert_counts(0, experts).is_ok());
  ASSERT_TRUE(writer->add_expert_counts(1, experts_of_idle).is_ok());
  ASSERT_TRUE(writer->commit().is_ok());
  // Ranks 9 3 and 8 4.
  EXPECT_EQ(report({}).out,
            "Load statistics:\n"
            "         mean       std  imbalance-ratio\n"
            "3         6.0  4.242641         0.500000\n"
            "4         6.0  2.828427         0.333333\n"
            "average   6.0  3.535534         0.416667\n");
  ASSERT_EQ(report({"--json", folder_ / "a.json", "--projection_eplb_config_path", plan_,
                    "--ep_size", "2"})
                .exit_code,
            0);
  const Json both = json("a.json");
  EXPECT_EQ(both["num_experts"], 4);
  EXPECT_EQ(both["recorded"]["num_slots"], 6);
  EXPECT_EQ(both["recorded"]["layers"][0]["tokens"], Json::array({9.0, 3.0}));
  // Plan 0 0 1 | 0 2 3: two thirds of expert 0 and expert 1 on rank 0.
  EXPECT_NEAR(both["projected"]["layers"][0]["tokens"][0].get<double>(), 8 * 2 / 3.0 + 1, 1e-9);
  const CommandResult plan =
      run_command(add_eplb_generate, {"generate", "--expert_statistic_path", statistics_,
                                      "--num_slots", "8", "--output_path", folder_ / "new.yaml"});
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  EXPECT_THAT(plan.out, HasSubstr("2 layers, 4 experts in 8 slots on 2 ranks"));
}

TEST_F(EplbReport, WritesJson) {
  ASSERT_EQ(report({"--json", folder_ / "a.json"}).exit_code, 0);
  const Json recorded = json("a.json");
  EXPECT_EQ(recorded["num_experts"], 4);
  EXPECT_EQ(recorded["top_k"], 2);
  EXPECT_EQ(recorded["iter_start"], 100);
  EXPECT_EQ(recorded["iter_stop"], 102);
  EXPECT_FALSE(recorded.contains("projected"));
  EXPECT_EQ(recorded["recorded"]["ep_size"], 2);
  EXPECT_EQ(recorded["recorded"]["layers"][1]["layer"], 4);
  EXPECT_EQ(recorded["recorded"]["layers"][1]["imbalance_ratio"], 0.4);
  EXPECT_EQ(recorded["recorded"]["layers"][0]["tokens"], Json::array({12.0, 4.0}));

  ASSERT_EQ(report({"--json", folder_ / "b.json", "--projection_eplb_config_path", plan_,
                    "--ep_size", "3"})
                .exit_code,
            0);
  const Json projected = json("b.json");
  EXPECT_EQ(projected["recorded"]["ep_size"], 2);
  EXPECT_EQ(projected["projected"]["ep_size"], 3);
  EXPECT_EQ(projected["projected"]["num_slots"], 6);
  EXPECT_TRUE(projected["projected_best_split"]["average"].contains("imbalance_ratio"));
}

TEST_F(EplbReport, WritesThePage) {
  ASSERT_EQ(
      report({"--html", folder_ / "a.html", "--projection_eplb_config_path", plan_}).exit_code, 0);
  EXPECT_THAT(contents_of(folder_ / "a.html"),
              AllOf(HasSubstr("<!DOCTYPE html>"), HasSubstr("expert_statistic"),
                    HasSubstr("plan.yaml"), HasSubstr("best split")));
}

TEST_F(EplbReport, RefusesBadInputAndPrintsNoTable) {
  const auto expect_error = [&](std::vector<std::string> flags, const std::string& message) {
    const CommandResult result = report(std::move(flags));
    EXPECT_EQ(result.exit_code, 2) << message;
    EXPECT_THAT(result.err, HasSubstr(message));
    EXPECT_THAT(result.out, IsEmpty());
  };
  expect_error({"--ep_size", "3"}, "3 ranks cannot share 4 experts");
  expect_error({"--ep_size", "0"}, "--ep_size");
  expect_error({"--iter_start", "102"}, "");
  expect_error({"--projection_eplb_config_path", folder_ / "none.yaml"}, "none.yaml");
  expect_error({"--projection_eplb_config_path", plan_, "--ep_size", "4"},
               "num_slots 6 of the plan is not divisible by ep_size 4");
  expect_error({"--no_such_flag"}, "no_such_flag");
  EXPECT_EQ(run_command(add_eplb_report, {"report"}).exit_code, 2);
}

TEST_F(EplbReport, KeepsOldOutputWhereItCannotWrite) {
  const CommandResult result = report({"--json", folder_ / "no_such_folder/a.json"});
  EXPECT_NE(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("no_such_folder"));
  EXPECT_THAT(result.out, IsEmpty());
  const std::string old = folder_.write("old.json", "{}");
  EXPECT_EQ(report({"--json", old, "--ep_size", "3"}).exit_code, 2);
  EXPECT_EQ(contents_of(old), "{}");
}

TEST_F(EplbReport, CooccurrenceOfRawStatistics) {
  write_raw();
  const CommandResult result =
      cooccurrence({"--expert_statistic_path", statistics_, "--json", folder_ / "c.json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out,
            "Co-occurrence statistics:\n"
            "         within_rank_cnt  between_rank_cnt  total_cnt  within_rank_ratio\n"
            "3                    4.0               2.0        6.0           0.666667\n"
            "4                    2.0               0.0        2.0           1.000000\n"
            "average              3.0               1.0        4.0           0.833333\n");
  EXPECT_EQ(json("c.json")["average"]["total_cnt"], 4);
  EXPECT_EQ(json("c.json")["layers"][0]["within_rank_cnt"], 4);
  EXPECT_EQ(json("c.json")["ep_size"], 2);
}

TEST_F(EplbReport, CooccurrenceWithAPlan) {
  write_raw();
  // Layer 3, ranks {0 0 1} {0 2 3}: (0, 1) is together for 2 of 3 replicas, (0, 2) for 1 of 3.
  // Layer 4, ranks {0 1 2} {3 2 1}: (2, 3) is together for 1 of 2.
  const CommandResult result =
      cooccurrence({"--expert_statistic_path", statistics_, "--ep_size", "2",
                    "--projection_eplb_config_path", plan_, "--json", folder_ / "c.json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const Json layers = json("c.json")["layers"];
  EXPECT_DOUBLE_EQ(layers[0]["within_rank_cnt"], 2 * (2 * 2.0 / 3 + 1.0 / 3));
  EXPECT_DOUBLE_EQ(layers[1]["within_rank_ratio"], 0.5);
}

TEST_F(EplbReport, SendRanksOfRawStatistics) {
  write_raw();
  const CommandResult result =
      send_ranks({"--expert_statistic_path", statistics_, "--json", folder_ / "s.json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out,
            "Send ranks statistics:\n"
            "         num_send_ranks_per_token\n"
            "3                        1.333333\n"
            "4                        1.000000\n"
            "average                  1.166667\n");
  EXPECT_EQ(json("s.json")["layers"][0]["num_tokens"], 3);
  EXPECT_EQ(json("s.json")["layers"][1]["num_send_ranks_per_token"], 1);
}

TEST_F(EplbReport, ATraceStandsForStatistics) {
  const std::string trace = write_trace();
  const std::vector<std::string> flags = {"--trace",       trace, "--ep_size",     "2",
                                          "--first_layer", "3",   "--num_experts", "4"};
  write_raw();
  EXPECT_EQ(cooccurrence(flags).out, cooccurrence({"--expert_statistic_path", statistics_}).out);
  EXPECT_EQ(send_ranks(flags).out, send_ranks({"--expert_statistic_path", statistics_}).out);
  // Twice the same trace: twice the pairs, the same share.
  const CommandResult twice = cooccurrence({"--trace", trace, "--trace", trace, "--ep_size", "2"});
  EXPECT_THAT(twice.out, HasSubstr("\n0                    8.0               4.0       12.0"));
  // With a plan its experts are the trace's.
  const CommandResult planned = send_ranks({"--trace", trace, "--first_layer", "3", "--ep_size",
                                            "2", "--projection_eplb_config_path", plan_});
  EXPECT_EQ(planned.exit_code, 0) << planned.err;
}

TEST_F(EplbReport, RoutedReportsNeedOneSource) {
  const std::string trace = write_trace();
  const auto expect_error = [&](const std::vector<std::string>& flags, const std::string& message) {
    for (const CommandResult& result : {cooccurrence(flags), send_ranks(flags)}) {
      EXPECT_EQ(result.exit_code, 2) << message;
      EXPECT_THAT(result.err, HasSubstr(message));
      EXPECT_THAT(result.out, IsEmpty());
    }
  };
  expect_error({}, "exactly one");
  expect_error({"--trace", trace, "--expert_statistic_path", statistics_}, "exactly one");
  expect_error({"--trace", trace}, "--ep_size: missing");
  expect_error({"--trace", trace, "--ep_size", "2", "--iter_start", "1"}, "has no iterations");
  expect_error({"--expert_statistic_path", statistics_, "--num_experts", "4"}, "are for --trace");
  // No raw files were written.
  expect_error({"--expert_statistic_path", statistics_}, statistics_);
  expect_error({"--trace", trace, "--ep_size", "2", "--projection_eplb_config_path", plan_},
               "layer 0 is in the counts");
}

}  // namespace
}  // namespace wideep::cli
