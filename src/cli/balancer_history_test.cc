#include "cli/balancer_history.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace wideep::cli {
namespace {

moe::IterationReport report_of(double imbalance) {
  moe::IterationReport report;
  report.num_ranks = 4;
  report.num_slots = 16;
  report.layers = {{.layer = 2, .imbalance = imbalance, .unbalanced = 1},
                   {.layer = 10, .imbalance = 0.5, .unbalanced = 0.5}};
  return report;
}

engine::IterationInfo info_of(int64_t number, const moe::IterationReport* report) {
  return {.number = number,
          .num_sequences = 6,
          .num_tokens = 10,
          .all_tokens = 40,
          .num_waiting = 2,
          .num_free_pages = 99,
          .balancer = report};
}

// Three iterations; in the second, layer 2 moves and layer 10 keeps its placement and has no
// tokens.
BalancerHistory three_iterations() {
  BalancerHistory history;
  const moe::IterationReport first = report_of(0.75);
  moe::IterationReport second = report_of(0.5);
  second.layers.pop_back();
  second.turns = {
      {.layer = 2, .update = {.moved = true, .transfers = 3, .before = 1.75, .after = 1.25}},
      {.layer = 10, .update = {.before = 1.5, .after = 1.5}}};
  second.planner_seconds = 0.5;
  moe::IterationReport third = report_of(0.25);
  third.migration = {.transfers = 3, .bytes = 1'500'000, .commits = 1};
  third.wait_seconds = 0.125;
  history.add(info_of(7, &first));
  history.add(info_of(8, &second));
  history.add(info_of(9, &third));
  return history;
}

TEST(BalancerHistory, LeavesOutIterationsWithoutTheBackend) {
  BalancerHistory history;
  history.add(info_of(0, nullptr));
  EXPECT_TRUE(history.empty());
  const moe::IterationReport report = report_of(1);
  history.add(info_of(1, &report));
  EXPECT_FALSE(history.empty());
  history.clear();
  EXPECT_TRUE(history.empty());
}

TEST(BalancerHistory, WritesEveryIteration) {
  const OrderedJson json = three_iterations().json();
  const auto expected = parse_ordered_json(R"({
    "ranks": 4, "slots": 16, "layers": [2, 10],
    "summary": [
      {"layer": 2, "imbalance_ratio": 0.5, "worst_imbalance_ratio": 0.75,
       "imbalance_ratio_in_order": 1.0, "transfers": 3},
      {"layer": 10, "imbalance_ratio": 0.5, "worst_imbalance_ratio": 0.5,
       "imbalance_ratio_in_order": 0.5, "transfers": 0}],
    "totals": {"transfers": 3, "transfer_bytes": 1500000, "commits": 1, "plans_moved": 1,
               "plans_kept": 1, "planner_seconds": 0.5, "wait_seconds": 0.125},
    "iterations": {
      "number": [7, 8, 9], "tokens": [40, 40, 40], "transfers": [0, 0, 3],
      "transfer_bytes": [0, 0, 1500000], "commits": [0, 0, 1], "planner_seconds": [0.0, 0.5, 0.0],
      "wait_seconds": [0.0, 0.0, 0.125],
      "imbalance_ratio": [[0.75, 0.5, 0.25], [0.5, null, 0.5]],
      "imbalance_ratio_in_order": [[1.0, 1.0, 1.0], [0.5, null, 0.5]]},
    "updates": [{"iteration": 8, "layer": 2, "imbalance_ratio_before": 0.75,
                 "imbalance_ratio_after": 0.25, "transfers": 3}]
  })",
                                           "expected");
  ASSERT_TRUE(expected.is_ok()) << expected.status().message();
  EXPECT_EQ(json.dump(1), expected->dump(1));
}

TEST(BalancerHistory, PrintsATable) {
  EXPECT_EQ(three_iterations().text(),
            "imbalance ratio of 4 ranks with 16 slots, over 3 iterations\n"
            "layer           mean     worst  in order  transfers\n"
            "2             0.5000    0.7500    1.0000          3\n"
            "10            0.5000    0.5000    0.5000          0\n"
            "average       0.5000    0.7500    0.7500          3\n"
            "2 plans: 1 moved experts, 1 kept them; 3 transfers (1.5 MB), 1 commits; planner 0.500 "
            "s beside the model, which waited 0.125 s\n");
}

TEST(IterationLine, SaysWhatTheBalancerDid) {
  EXPECT_EQ(iteration_line(info_of(7, nullptr)),
            "iteration 7: 6 sequences, 10 tokens, 2 waiting, 99 pages free");
  moe::IterationReport report = report_of(0.75);
  report.turns = {
      {.layer = 2, .update = {.moved = true, .transfers = 3, .before = 1.75, .after = 1.25}},
      {.layer = 10, .update = {.before = 1.5, .after = 1.5}}};
  report.migration = {.transfers = 5, .bytes = 1, .commits = 2};
  EXPECT_EQ(
      iteration_line(info_of(7, &report)),
      "iteration 7: 6 sequences, 10 tokens, 2 waiting, 99 pages free; 40 tokens of all ranks, "
      "imbalance 0.6250 (layer 2: 0.7500), in order 0.7500; layer 2: 0.7500 -> 0.2500 "
      "planned, 3 transfers; 5 experts sent, 2 layers committed");
}

}  // namespace
}  // namespace wideep::cli
