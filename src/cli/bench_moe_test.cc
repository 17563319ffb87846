// wideep bench moe with the embedded model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "base/file_testing.h"
#include "base/json.h"
#include "cli/bench_moe_report.h"
#include "cli/cli_testing.h"
#include "cli/commands.h"

namespace wideep::cli {
namespace {

using ::testing::HasSubstr;

const std::string kModel = WIDEEP_SOURCE_DIR "/models/dsv3-tiny";

CommandResult bench_moe(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"bench", "moe", "--model", kModel, "--device", "cpu",
                                       "--world", "local", "--calls", "2", "--warmup", "1"});
  return run_command(add_bench, std::move(arguments));
}

TEST(BenchMoe, ComparesAllVariantsInOneRun) {
  const TemporaryFolder folder;
  const CommandResult result = bench_moe(
      {"--ep", "4", "--layers", "2", "--tokens", "3,40", "--skew", "zipf:1", "--online_warmup",
       "40", "--layer_updates_per_iter", "2", "--report_json", folder / "report.json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("40 tokens a rank, us a layer"));
  EXPECT_THAT(result.out, HasSubstr("cutlass, balanced"));
  EXPECT_THAT(result.out, HasSubstr("plan, per_batch"));
  EXPECT_THAT(result.out, HasSubstr("4 ranks, CPU; 72 slots with a balancer"));

  const Json report = read_json(folder / "report.json").value();
  EXPECT_EQ(report["benchmark"], "moe");
  EXPECT_EQ(report["ranks"], 4);
  EXPECT_EQ(report["model"]["num_experts"], 64);
  ASSERT_EQ(report["results"].size(), 20U) << "2 sizes of 4 rows in order and 6 with replicas";
  std::set<std::string> seen;
  for (const Json& row : report["results"]) {
    const std::string placement = row["placement"];
    seen.insert(placement + " " + std::string(row["replica_choice"]));
    EXPECT_GT(row["us"]["p50"].get<double>(), 0);
    EXPECT_GT(row["phases_us"]["experts"]["mean"].get<double>(), 0);
    EXPECT_GE(row["phases_us"]["wait"]["minimum"].get<double>(), 0);
    EXPECT_EQ(row["num_slots"], placement == "in_order" ? 64 : 72);
    EXPECT_GT(row["times_balanced"].get<double>(), 0);
    if (row["routing"] == "balanced") {
      EXPECT_NEAR(row["imbalance_ratio"].get<double>(), 0, 1e-9);
      EXPECT_EQ(row["times_balanced"], 1);
      continue;
    }
    if (!row["difference_to_first"].is_null()) {
      EXPECT_LT(row["difference_to_first"].get<double>(), 1e-4);
    }
    // 16 of 64 experts a rank, whose loads fall as 1/i.
    if (placement == "in_order") {
      EXPECT_GT(row["imbalance_ratio"].get<double>(), 0.05);
    }
    if (placement == "plan" && row["tokens_a_rank"] == 40 && row["replica_choice"] == "per_batch") {
      EXPECT_LT(row["imbalance_ratio"].get<double>(), 0.02);
    }
    if (placement != "online") {
      EXPECT_EQ(row["transfers_in_warmup"], 0);
    }
  }
  EXPECT_EQ(seen.size(), 7U);
}

TEST(BenchMoe, OneRankAndRecordedLoads) {
  const TemporaryFolder folder;
  std::string csv = "layer_idx";
  for (int e = 0; e < 64; ++e) csv += "," + std::to_string(e);
  csv += "\n";
  for (int layer = 0; layer < 3; ++layer) {
    csv += std::to_string(layer);
    for (int e = 0; e < 64; ++e) csv += "," + std::to_string(1 + (e + layer) % 7);
    csv += "\n";
  }
  const CommandResult result =
      bench_moe({"--ep", "1", "--tokens", "5", "--variants", "wideep", "--skew",
                 folder.write("load.csv", csv), "--dtype", "fp32"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("1 of 4 layers"));
  EXPECT_THAT(result.out, HasSubstr("load.csv, its layers 1"));
  EXPECT_THAT(result.out, Not(HasSubstr("cutlass")));
}

TEST(BenchMoe, BadInputLeavesWithTwo) {
  const auto expect = [](const std::vector<std::string>& arguments, const std::string& message) {
    const CommandResult result = bench_moe(arguments);
    EXPECT_EQ(result.exit_code, 2) << message;
    EXPECT_THAT(result.err, HasSubstr(message));
    EXPECT_EQ(result.out, "");
  };
  expect({"--layers", "5"}, "--layers 5: the model has 4 MoE layers");
  expect({"--num_slots", "65"}, "65");
  expect({"--skew", "zipf:"}, "must be zipf:S");
  expect({"--skew", "/none.csv"}, "/none.csv");
  expect({"--tokens", "0"}, "--tokens");
  expect({"--variants", "none"}, "--variants");
  expect({"--ep", "3", "--variants", "wideep"}, "3");
  expect({"--ep", "1", "--variants", "online"}, "--variants cutlass,wideep");
}

// 100 us in order, 80 with a plan; perfectly balanced routing takes 50, or 60 with CUTLASS.
std::vector<MoeBenchRow> made_up_rows() {
  const auto row = [](const char* backend, const char* placement, bool is_balanced, double us) {
    MoeBenchRow made;
    made.name = placement;
    made.backend = backend;
    made.placement = placement;
    made.is_balanced = is_balanced;
    made.tokens = 10;
    made.result.us = {us, 3 * us, us};
    made.result.phases = {{}, {}};
    made.result.phases[0][static_cast<size_t>(moe::Phase::kWait)] = 8;
    return made;
  };
  return {row("CUTLASS", "in_order", false, 120), row("CUTLASS", "in_order", true, 60),
          row("WideEP", "in_order", false, 100), row("WideEP", "in_order", true, 50),
          row("WideEP", "plan", false, 80)};
}

TEST(BenchMoeReport, HoldsARowAgainstItsReferences) {
  std::vector<MoeBenchRow> rows = made_up_rows();
  EXPECT_DOUBLE_EQ(*times_reference(rows[0], rows, MoeReference::kBalanced), 2);
  EXPECT_DOUBLE_EQ(*times_reference(rows[0], rows, MoeReference::kInOrder), 1.2);
  EXPECT_DOUBLE_EQ(*times_reference(rows[4], rows, MoeReference::kBalanced), 1.6);
  EXPECT_DOUBLE_EQ(*times_reference(rows[4], rows, MoeReference::kInOrder), 0.8);
  rows[4].tokens = 11;
  EXPECT_FALSE(times_reference(rows[4], rows, MoeReference::kBalanced)) << "another size";
}

TEST(BenchMoeReport, GivesMeansOverRanksAndRates) {
  const std::vector<MoeBenchRow> rows = made_up_rows();
  const std::string text = moe_bench_text(rows);
  EXPECT_THAT(text, HasSubstr("\n10 tokens a rank, us a layer\n"));
  EXPECT_THAT(text, HasSubstr("in_order, balanced"));
  const OrderedJson json = moe_bench_json(rows);
  EXPECT_EQ(json[4]["us"]["p50"], 80);
  EXPECT_EQ(json[4]["phases_us"]["wait"]["mean"], 4);
  EXPECT_EQ(json[4]["phases_us"]["wait"]["maximum"], 8);
  EXPECT_DOUBLE_EQ(json[4]["tokens_per_second_a_rank"].get<double>(), 10 / 80e-6);
  EXPECT_TRUE(json[4]["difference_to_first"].is_null());
}

}  // namespace
}  // namespace wideep::cli
