#include "engine/engine_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "base/file_testing.h"
#include "engine/metric_names.h"

namespace wideep::engine {
namespace {

using testing::HasSubstr;
using testing::Not;

// Two layers; layer 2 gets a new placement, layer 5 keeps its own.
moe::IterationReport report_of(double imbalance) {
  moe::IterationReport report;
  report.num_ranks = 4;
  report.num_slots = 16;
  report.layers = {{.layer = 2, .imbalance = imbalance, .unbalanced = 0.5},
                   {.layer = 5, .imbalance = 0.25, .unbalanced = 0.75}};
  report.migration = {.transfers = 3, .bytes = 300, .commits = 1};
  report.turns = {
      {.layer = 2, .update = {.moved = true, .transfers = 7, .before = 1.5, .after = 1.125}},
      {.layer = 5, .update = {.before = 1.25, .after = 1.25}}};
  report.planner_seconds = 0.5;
  report.wait_seconds = 0.25;
  return report;
}

IterationInfo info_of(const moe::IterationReport* report) {
  return {.number = 3,
          .num_sequences = 6,
          .num_tokens = 10,
          .all_tokens = 40,
          .num_waiting = 2,
          .num_free_pages = 99,
          .balancer = report};
}

TEST(EngineMetrics, CountTheJob) {
  MetricsRegistry registry;
  EngineMetrics metrics(registry);
  EXPECT_THAT(registry.text(), HasSubstr("\nwideep_running 1\n"));
  metrics.on_iteration(info_of(nullptr), 1000.5);
  metrics.on_iteration(info_of(nullptr), 1001.5);
  const std::string text = registry.text();
  EXPECT_THAT(text, HasSubstr("\nwideep_iterations_total 2\n"));
  EXPECT_THAT(text, HasSubstr("\nwideep_last_iteration_timestamp_seconds 1001.5\n"));
  EXPECT_THAT(text, HasSubstr("\nwideep_tokens_total 80\n"));
  EXPECT_THAT(text, HasSubstr("\nwideep_requests_running 6\n"));
  EXPECT_THAT(text, HasSubstr("\nwideep_requests_waiting 2\n"));
  EXPECT_THAT(text, HasSubstr("\nwideep_kv_cache_free_pages 99\n"));
  EXPECT_THAT(text, Not(HasSubstr("eplb")));

  metrics.on_end();
  const std::string after = registry.text();
  EXPECT_THAT(after, HasSubstr("\nwideep_running 0\n"));
  EXPECT_THAT(after, HasSubstr("\nwideep_requests_running 0\n"));
  EXPECT_THAT(after, HasSubstr("\nwideep_iterations_total 2\n"));
}

TEST(EngineMetrics, ShowTheBalancer) {
  MetricsRegistry registry;
  EngineMetrics metrics(registry);
  const moe::IterationReport first = report_of(0.5);
  const moe::IterationReport second = report_of(1.5);
  metrics.on_iteration(info_of(&first), 1);
  metrics.on_iteration(info_of(&second), 2);
  const std::string text = registry.text();
  EXPECT_THAT(text, HasSubstr("\nwideep_eplb_ranks 4\n"));
  EXPECT_THAT(text, HasSubstr("\nwideep_eplb_slots 16\n"));
  EXPECT_THAT(text, HasSubstr("\nwideep_eplb_imbalance_ratio{layer=\"2\"} 1.5\n"
                              "wideep_eplb_imbalance_ratio{layer=\"5\"} 0.25\n"));
  // 0.5 + (1.5 - 0.5) / 16
  EXPECT_THAT(text, HasSubstr("\nwideep_eplb_imbalance_ratio_average{layer=\"2\"} 0.5625\n"));
  EXPECT_THAT(text, HasSubstr("\nwideep_eplb_imbalance_ratio_in_order{layer=\"5\"} 0.75\n"));
  EXPECT_THAT(text, HasSubstr("\nwideep_eplb_update_imbalance_ratio_before{layer=\"2\"} 0.5\n"));
  EXPECT_THAT(text, HasSubstr("\nwideep_eplb_update_imbalance_ratio_after{layer=\"2\"} 0.125\n"));
  EXPECT_THAT(text, Not(HasSubstr("ratio_after{layer=\"5\"}")));
  EXPECT_THAT(text, HasSubstr("\nwideep_eplb_transfers_total{layer=\"2\"} 14\n"
                              "wideep_eplb_transfers_total{layer=\"5\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("\nwideep_eplb_transfer_bytes_total 600\n"));
  EXPECT_THAT(text, HasSubstr("\nwideep_eplb_commits_total 2\n"));
  EXPECT_THAT(text, HasSubstr("\nwideep_eplb_plans_total{outcome=\"kept\"} 2\n"
                              "wideep_eplb_plans_total{outcome=\"moved\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("\nwideep_eplb_planner_seconds_total 1\n"));
  EXPECT_THAT(text, HasSubstr("\nwideep_eplb_wait_seconds_total 0.5\n"));
}

// docs/metrics.md has a row for every metric, with its type, and for nothing else; and whatever is
// written has a name that readers know.
TEST(EngineMetrics, AreDocumented) {
  MetricsRegistry registry;
  EngineMetrics metrics(registry);
  const moe::IterationReport report = report_of(0.5);
  metrics.on_iteration(info_of(&report), 1);
  registry.gauge(metric::kHeartbeat, "Of base/metrics_file.h.");
  const std::string docs = contents_of(WIDEEP_SOURCE_DIR "/docs/metrics.md");
  std::set<std::string> names;
  for (const MetricFamily& family : registry.families()) {
    names.insert(family.name);
    const char* type = family.type == MetricType::kCounter ? "counter" : "gauge";
    EXPECT_THAT(docs, HasSubstr("\n| `" + family.name + "` | " + type + " |"));
    EXPECT_EQ(family.type == MetricType::kCounter, family.name.ends_with("_total"));
  }
  EXPECT_EQ(names, std::set<std::string>(metric::kAll.begin(), metric::kAll.end()));
  // Tables of other things do not begin their rows with a metric's name.
  const std::string row = "\n| `wideep_";
  size_t rows = 0;
  for (size_t at = docs.find(row); at != std::string::npos; at = docs.find(row, at + 1)) ++rows;
  EXPECT_EQ(rows, names.size());
}

}  // namespace
}  // namespace wideep::engine
