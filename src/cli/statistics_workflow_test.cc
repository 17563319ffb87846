// The offline balancer's workflow as a user types it: run and count, report, plan. With the
// embedded model.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "base/env_testing.h"
#include "base/file.h"
#include "base/file_testing.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/cli_testing.h"
#include "cli/commands.h"
#include "eplb/plan_file.h"
#include "eplb/statistics.h"

namespace wideep::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const std::string kModel = WIDEEP_SOURCE_DIR "/models/dsv3-tiny";
constexpr int kMoeLayers = 4;
constexpr int kTopK = 6;

// Four requests of 7 input tokens, alone in the run; `range` null: without statistics.
CommandResult bench(const std::string& folder, const char* range,
                    const std::vector<std::string>& flags) {
  const env::ScopedVariable path(env::kStatisticPath, folder.c_str());
  const env::ScopedVariable window(env::kStatisticIterRange, range);
  std::vector<std::string> arguments = {"bench",          "throughput", "--model",        "tiny",
                                        "--model_path",   kModel,       "--dtype",        "fp32",
                                        "--warmup",       "0",          "--eos_id",       "-1",
                                        "--num_requests", "4",          "--input_tokens", "7"};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  return run_command(add_bench, std::move(arguments));
}

// [num_layers, num_experts] over all iterations.
std::vector<int64_t> total_of(const std::string& folder) {
  return eplb::total_load(eplb::read_statistics(folder).value()).tokens;
}

TEST(StatisticsWorkflow, RunReportPlan) {
  const TemporaryFolder folder;
  const std::string statistics = folder / "expert_statistic";
  const CommandResult run = bench(statistics, "1-4",
                                  {"--output_tokens", "5", "--tp", "2", "--ep", "2",
                                   "--enable_attention_dp", "--report_json", folder / "run.json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.err, HasSubstr(fmt::format("expert statistics: iterations 1-4, {} layers, 2 "
                                             "ranks: {}\n",
                                             kMoeLayers, statistics)));
  EXPECT_THAT(run.out, HasSubstr("Load statistics of 2 ranks, iterations 1-4:\n"));
  const Json recorded = read_json(folder / "run.json").value()["load_statistics"];
  EXPECT_EQ(recorded["iter_start"], 1);
  EXPECT_EQ(recorded["iter_stop"], 4);
  EXPECT_EQ(recorded["ep_size"], 2);
  EXPECT_EQ(recorded["layers"].size(), static_cast<size_t>(kMoeLayers));

  // The table of the run is the report's.
  const CommandResult report = run_command(
      add_eplb_report,
      {"report", "--expert_statistic_path", statistics, "--json", folder / "report.json"});
  ASSERT_EQ(report.exit_code, 0) << report.err;
  const std::string table = report.out.substr(report.out.find('\n'));
  EXPECT_THAT(run.out, HasSubstr(table));
  EXPECT_EQ(read_json(folder / "report.json").value()["recorded"]["layers"], recorded["layers"]);

  const std::string plan_path = folder / "moe_load_balancer.yaml";
  const CommandResult plan = run_command(
      add_eplb_generate, {"generate", "--expert_statistic_path", statistics, "--ep_size", "9",
                          "--num_slots", "72", "--output_path", plan_path});
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  const eplb::Plan read = eplb::read_plan(plan_path, 64).value();
  EXPECT_EQ(read.num_slots, 72);
  EXPECT_EQ(read.num_layers(), kMoeLayers);
}

// One output token a request: what goes through the model is the prompts alone, the same in every
// layout and batch.
TEST(StatisticsWorkflow, EveryLayoutCountsEveryTokenOnce) {
  const TemporaryFolder folder;
  const std::string one = folder / "one";
  const CommandResult run = bench(one, "0-1000", {"--output_tokens", "1"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.err, HasSubstr("(the run ended after "));
  const std::vector<int64_t> expected = total_of(one);
  EXPECT_EQ(std::accumulate(expected.begin(), expected.end(), int64_t{0}),
            4 * 7 * kTopK * kMoeLayers);
  const char* layouts[] = {"--tp 2 --ep 2", "--cp 2", "--pp 2", "--tp 2 --dp 2",
                           "--tp 2 --ep 2 --enable_attention_dp"};
  for (const char* layout : layouts) {
    const std::string path = folder / "split";
    std::vector<std::string> flags = {"--output_tokens", "1"};
    for (const std::string_view flag : split(layout, ' ')) flags.emplace_back(flag);
    const CommandResult split_run = bench(path, "0-1000", flags);
    ASSERT_EQ(split_run.exit_code, 0) << split_run.err;
    EXPECT_EQ(total_of(path), expected) << layout;
  }
}

// Three ranks, which do not divide 64 experts, with a plan made for them.
TEST(StatisticsWorkflow, ARunWithAPlanCountsSlotsAndExperts) {
  const TemporaryFolder folder;
  const std::string before = folder / "before";
  const CommandResult first =
      bench(before, "0-1000",
            {"--output_tokens", "1", "--tp", "2", "--ep", "2", "--enable_attention_dp",
             "--report_json", folder / "before.json"});
  ASSERT_EQ(first.exit_code, 0) << first.err;
  const std::string plan_path = folder / "plan.yaml";
  ASSERT_EQ(
      run_command(add_eplb_generate, {"generate", "--expert_statistic_path", before, "--ep_size",
                                      "3", "--num_slots", "69", "--output_path", plan_path})
          .exit_code,
      0);
  const eplb::Plan plan = eplb::read_plan(plan_path, 64).value();
  // Exact sums, so that every token chooses the experts that it chose on other ranks.
  folder.write("plan.yaml", contents_of(plan_path) + "combine: exact\n");
  const std::string config =
      folder.write("engine.yaml", "enable_attention_dp: true\nmoe_load_balancer: plan.yaml\n");
  const std::string after = folder / "after";
  const CommandResult run = bench(after, "0-1000",
                                  {"--output_tokens", "1", "--tp", "3", "--ep", "3", "--config",
                                   config, "--report_json", folder / "after.json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.err, HasSubstr("4 layers, 3 ranks: " + after));

  const std::vector<int64_t> experts = total_of(eplb::expert_folder(after));
  EXPECT_EQ(experts, total_of(before));
  const eplb::Load slots = eplb::total_load(eplb::read_statistics(after).value());
  ASSERT_EQ(slots.num_experts, 69);
  std::vector<int64_t> experts_of_slots(experts.size());
  for (int l = 0; l < plan.num_layers(); ++l) {
    for (int s = 0; s < plan.num_slots; ++s) {
      experts_of_slots[l * 64 + plan.row(l)[s]] += slots.row(l)[s];
    }
  }
  EXPECT_EQ(experts_of_slots, experts);

  const auto imbalance = [&](const char* name) {
    const Json report = read_json(folder / name).value();
    return report["load_statistics"]["average"]["imbalance_ratio"].get<double>();
  };
  EXPECT_LT(imbalance("after.json"), imbalance("before.json") / 2);
  const CommandResult again =
      run_command(add_eplb_generate, {"generate", "--expert_statistic_path", after, "--num_slots",
                                      "69", "--output_path", folder / "again.yaml"});
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_THAT(again.out, HasSubstr("4 layers, 64 experts in 69 slots on 3 ranks"));
}

TEST(StatisticsWorkflow, ThePathAloneCountsNothing) {
  const TemporaryFolder folder;
  const CommandResult run = bench(folder / "s", nullptr, {"--output_tokens", "1"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.err, Not(HasSubstr("expert statistics")));
  EXPECT_THAT(run.out, Not(HasSubstr("Load statistics")));
  EXPECT_FALSE(path_exists(folder / "s"));
}

TEST(StatisticsWorkflow, AWindowThatIsNeverReachedIsSaid) {
  const TemporaryFolder folder;
  const CommandResult run = bench(folder / "s", "100-200", {"--output_tokens", "1"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.err, HasSubstr("expert statistics: nothing recorded: the run ended after "));
  EXPECT_THAT(run.err, HasSubstr(", the window is 100-200\n"));
  EXPECT_FALSE(path_exists(folder / "s"));
}

TEST(StatisticsWorkflow, BadVariablesEndTheRunBeforeItBegins) {
  const TemporaryFolder folder;
  const CommandResult range = bench(folder / "s", "200-100", {});
  EXPECT_EQ(range.exit_code, 2);
  EXPECT_THAT(range.err, HasSubstr("EXPERT_STATISTIC_ITER_RANGE: '200-100': START must be less"));
  EXPECT_EQ(range.out, "");
  const env::ScopedVariable window(env::kStatisticIterRange, "0-1");
  const env::ScopedVariable path(env::kStatisticPath, (folder / "s").c_str());
  const CommandResult eval =
      run_command(add_eval, {"eval", "--model", kModel, "--prompts", folder.write("p.json", "[]"),
                             "--json", folder / "out.json"});
  EXPECT_EQ(eval.exit_code, 2);
  EXPECT_THAT(eval.err, HasSubstr("eval has no iterations to count"));
  folder.write("notes.txt", "");
  const CommandResult place = bench(folder.path(), "0-1", {"--tp", "2"});
  EXPECT_EQ(place.exit_code, 2);
  EXPECT_THAT(place.err, HasSubstr("holds \"notes.txt\", which is no statistics file"));
  EXPECT_EQ(place.out, "");
}

}  // namespace
}  // namespace wideep::cli
