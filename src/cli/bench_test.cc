// wideep bench with the embedded model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/file_testing.h"
#include "base/json.h"
#include "base/metrics_text.h"
#include "base/text.h"
#include "cli/cli_testing.h"
#include "cli/commands.h"

namespace wideep::cli {
namespace {

using ::testing::HasSubstr;

const std::string kModel = WIDEEP_SOURCE_DIR "/models/dsv3-tiny";

CommandResult bench(const std::string& mode, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"bench", "--model", "tiny", "--model_path", kModel, mode});
  return run_command(add_bench, std::move(arguments));
}

TEST(Bench, ThroughputOfASyntheticLoad) {
  const TemporaryFolder folder;
  const CommandResult result =
      bench("throughput",
            {"--num_requests", "5", "--input_tokens", "9", "--output_tokens", "4", "--eos_id", "-1",
             "--backend", "pytorch", "--warmup", "1", "--report_json", folder / "report.json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("(45 input and 20 output tokens)"));
  EXPECT_THAT(result.out, HasSubstr("time to first token"));
  EXPECT_THAT(result.out, HasSubstr("4 iterations"));
  const Json report = read_json(folder / "report.json").value();
  EXPECT_EQ(report["benchmark"], "throughput");
  EXPECT_EQ(report["results"]["output_tokens"], 20);
  EXPECT_EQ(report["results"]["requests"], 5);
  EXPECT_EQ(report["world"]["ranks"], 1);
  EXPECT_THAT(report["config"].get<std::string>(), HasSubstr("max_batch_size:"));
}

TEST(Bench, StepsBesideWhatTheyRead) {
  const TemporaryFolder folder;
  const CommandResult result =
      run_command(add_bench, {"bench", "step", "--device", "cpu", "--model", kModel, "--batch",
                              "1,3", "--context", "40", "--prefill", "20", "--steps", "1",
                              "--report_json", folder / "report.json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json report = read_json(folder / "report.json").value();
  EXPECT_EQ(report["benchmark"], "step");
  ASSERT_EQ(report["results"].size(), 3U);
  EXPECT_EQ(report["results"][0]["experts_a_layer"], 6) << "top_k of the model, for one token";
  EXPECT_EQ(report["results"][1]["tokens"], 3);
  EXPECT_EQ(report["results"][2]["kind"], "prefill");
  // Two more tokens read two more caches, and the experts that they add.
  EXPECT_GT(report["results"][1]["bytes"], report["results"][0]["bytes"]);
  for (const Json& step : report["results"]) EXPECT_GT(step["us"].get<double>(), 0);
}

TEST(Bench, StepsRunOnOneRank) {
  const CommandResult result =
      run_command(add_bench, {"bench", "step", "--device", "cpu", "--model", kModel, "--tp", "2"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("bench step: runs on one rank"));
}

TEST(Bench, ADatasetOverRanksAndReplicas) {
  const TemporaryFolder folder;
  std::string lines;
  for (int i = 0; i < 6; ++i) {
    lines += R"({"task_id": )" + std::to_string(i) + R"(, "prompt": "Hello", "output_tokens": 3})" +
             "\n";
  }
  const std::string dataset = folder.write("d.jsonl", lines);
  const CommandResult result =
      bench("throughput",
            {"--dataset", dataset, "--num_requests", "5", "--concurrency", "2", "--warmup", "0",
             "--eos_id", "-1", "--tp", "2", "--dp", "2", "--report_json", folder / "report.json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json report = read_json(folder / "report.json").value();
  EXPECT_EQ(report["results"]["requests"], 5);
  EXPECT_EQ(report["results"]["output_tokens"], 15);
  EXPECT_EQ(report["world"]["ranks"], 4);
  EXPECT_EQ(report["world"]["replicas"], 2);
}

TEST(Bench, LatencyTakesOneRequestAtATime) {
  const CommandResult result =
      bench("latency", {"--num_requests", "2", "--input_tokens", "5", "--output_tokens", "3",
                        "--warmup", "0", "--eos_id", "-1"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("6 iterations"));  // none of them shared
}

TEST(Bench, AnEndTokenOfOnesOwnEndsAnswers) {
  const Json all = read_json(WIDEEP_SOURCE_DIR "/tests/models/dsv3-tiny-reference.json").value();
  const auto reference =
      std::ranges::find_if(all, [](const Json& entry) { return entry["name"] == "go-0"; });
  ASSERT_NE(reference, all.end());
  const auto greedy = (*reference)["greedy"].get<std::vector<int>>();
  const int end = greedy[5];
  const auto expected = std::ranges::find(greedy, end) - greedy.begin() + 1;
  const TemporaryFolder folder;
  const std::string dataset = folder.write(
      "d.jsonl", Json{{"input_ids", (*reference)["token_ids"]}, {"output_tokens", 24}}.dump());
  const CommandResult result = bench(
      "throughput",
      {"--dataset", dataset, "--warmup", "0", "--dtype", "fp32", "--eos_id", std::to_string(end)});
  EXPECT_THAT(result.out, HasSubstr(" and " + std::to_string(expected) + " output tokens"));
}

TEST(Bench, BadInputLeavesWithTwo) {
  const TemporaryFolder folder;
  const std::string broken = folder.write("d.jsonl", "{\"prompt\": \"a\"}\n");
  const std::string good = folder.write("g.jsonl", "{\"prompt\": \"a\", \"output_tokens\": 2}\n");
  const std::string far = folder.write("f.jsonl",
                                       "{\"task_id\": 7, \"input_ids\": [9000], "
                                       "\"output_tokens\": 2}\n");
  const auto expect = [](const CommandResult& result, const std::string& message) {
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.err, HasSubstr(message));
  };
  expect(bench("throughput", {"--dataset", broken}), "d.jsonl:1: output_tokens: is missing");
  expect(bench("throughput", {"--dataset", "/nonexistent"}), "/nonexistent");
  expect(bench("throughput", {"--dataset", good, "--num_requests", "2"}), "has 1 requests");
  expect(bench("throughput", {"--dataset", far}), "task_id 7: prompt token 0 is 9000");
  expect(bench("throughput", {"--backend", "tensorrt"}), "pytorch");
  expect(bench("latency", {"--num_requests", "0"}), "num_requests");
}

TEST(Bench, TheBalancerIsReported) {
  const TemporaryFolder folder;
  const std::string config = folder.write("options.yaml",
                                          "enable_attention_dp: true\n"
                                          "print_iter_log: true\n"
                                          "moe_config:\n"
                                          "  backend: WideEP\n"
                                          "  load_balancer: {num_slots: 66, min_gain: 0.001, "
                                          "layer_updates_per_iter: 4}\n");
  const std::string metrics = folder / "job.prom";
  const CommandResult result = bench("throughput", {"--tp",
                                                    "3",
                                                    "--ep",
                                                    "3",
                                                    "--config",
                                                    config,
                                                    "--num_requests",
                                                    "6",
                                                    "--input_tokens",
                                                    "20",
                                                    "--output_tokens",
                                                    "8",
                                                    "--eos_id",
                                                    "-1",
                                                    "--warmup",
                                                    "1",
                                                    "--metrics_file",
                                                    metrics,
                                                    "--report_json",
                                                    folder / "report.json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("imbalance ratio of 3 ranks with 66 slots, over 8 iterations"));
  EXPECT_THAT(result.err, HasSubstr(" tokens of all ranks, imbalance "));

  // The measured iterations, without those of the warm-up.
  const Json balancer = read_json(folder / "report.json").value()["balancer"];
  EXPECT_EQ(balancer["layers"], Json({1, 2, 3, 4}));
  EXPECT_EQ(balancer["iterations"]["number"], Json({8, 9, 10, 11, 12, 13, 14, 15}));
  int64_t tokens = 0;
  for (const Json& count : balancer["iterations"]["tokens"]) tokens += count.get<int64_t>();
  EXPECT_EQ(tokens, 6 * (20 + 7));
  for (const Json& layer : balancer["iterations"]["imbalance_ratio"]) {
    ASSERT_EQ(layer.size(), 8U);
    // One token a rank at the least, of six experts.
    for (const Json& ratio : layer) EXPECT_TRUE(ratio >= 0 && ratio < 2) << ratio;
  }

  const auto families = parse_metrics(contents_of(metrics), metrics);
  ASSERT_TRUE(families.is_ok()) << error_of(families);
  EXPECT_EQ(find_family(*families, "wideep_running")->samples[0].value, 0);
  EXPECT_EQ(find_family(*families, "wideep_iterations_total")->samples[0].value, 16);
  EXPECT_EQ(find_family(*families, "wideep_eplb_imbalance_ratio")->samples.size(), 4U);
}

TEST(Bench, MetricsThatCannotBeWrittenAreAnErrorAtOnce) {
  const TemporaryFolder folder;
  const CommandResult result =
      bench("latency", {"--num_requests", "1", "--metrics_file", folder / "no/job.prom"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("no/job.prom: cannot create a file beside it"));
  EXPECT_EQ(result.out, "");
}

TEST(PrepareDataset, PutsDomainsOneAfterTheOther) {
  const TemporaryFolder folder;
  const std::string german = folder.write("german.json", R"(["Wo ist der Bahnhof?"])");
  const std::string python = folder.write("python.json", R"(["def f(x):\n  return x"])");
  const std::string output = folder / "d.jsonl";
  const CommandResult result =
      bench("prepare-dataset", {"--texts", german, "--texts", python, "--num_requests", "3",
                                "--output_mean", "2", "--output", output});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("3 requests: "));
  EXPECT_THAT(result.err, HasSubstr("and 6 output tokens, in " + output));
  const std::string dataset = contents_of(output);
  std::vector<Json> prompts;
  for (const std::string_view line : split(dataset, '\n')) {
    if (!line.empty()) prompts.push_back(parse_json(line, output).value()["input_ids"]);
  }
  ASSERT_EQ(prompts.size(), 3U);
  EXPECT_EQ(prompts[0], prompts[1]);
  EXPECT_NE(prompts[1], prompts[2]);
}

TEST(PrepareDataset, RefusesWhatCannotAct) {
  const TemporaryFolder folder;
  const std::string texts = folder.write("t.json", R"(["a b c"])");
  CommandResult result = bench("prepare-dataset", {"--texts", texts, "--random_start"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--random_start: needs --input_mean"));
  result = bench("prepare-dataset", {"--mix"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--texts"));
  result = bench("prepare-dataset", {"--texts", folder / "none.json"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("none.json: cannot open"));
}

}  // namespace
}  // namespace wideep::cli
