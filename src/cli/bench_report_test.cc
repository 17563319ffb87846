#include "cli/bench_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace wideep::cli {
namespace {

using ::testing::HasSubstr;

TEST(Distribution, InterpolatesBetweenNeighbours) {
  const Distribution values = distribution_of({4, 1, 3, 2, 5});
  EXPECT_DOUBLE_EQ(values.average, 3);
  EXPECT_DOUBLE_EQ(values.p50, 3);
  EXPECT_DOUBLE_EQ(values.p90, 4.6);
  EXPECT_DOUBLE_EQ(values.p99, 4.96);
  EXPECT_DOUBLE_EQ(values.minimum, 1);
  EXPECT_DOUBLE_EQ(values.maximum, 5);
  EXPECT_DOUBLE_EQ(distribution_of({7}).p95, 7);
  EXPECT_DOUBLE_EQ(distribution_of({}).average, 0);
}

TEST(BenchSummary, RatesAndTimes) {
  const std::vector<RequestRecord> records = {
      {.input_tokens = 10, .output_tokens = 5, .first_token = 0.5, .last_token = 2.5},
      {.input_tokens = 20, .output_tokens = 1, .first_token = 1, .last_token = 1}};
  const BenchSummary summary = summarize(records, 4, {.iterations = 9, .preemptions = 2});
  EXPECT_EQ(summary.requests, 2);
  EXPECT_DOUBLE_EQ(summary.requests_per_second, 0.5);
  EXPECT_DOUBLE_EQ(summary.output_tokens_per_second, 1.5);
  EXPECT_DOUBLE_EQ(summary.total_tokens_per_second, 9);
  EXPECT_DOUBLE_EQ(summary.output_tokens_per_second_and_user, 1.5);  // of 2 and 1
  EXPECT_DOUBLE_EQ(summary.ttft_ms.average, 750);
  EXPECT_DOUBLE_EQ(summary.tpot_ms.average, 500);  // of the first: the second has one token
  EXPECT_DOUBLE_EQ(summary.latency_ms.maximum, 2500);
  EXPECT_THAT(report_text(summary), HasSubstr("9 iterations"));
  EXPECT_THAT(report_text(summary), HasSubstr("2 preemptions"));
  EXPECT_EQ(report_json(summary)["output_tokens"], 6);
}

TEST(RunEnvironment, NamesCommandAndMachine) {
  const OrderedJson environment = run_environment();
  EXPECT_THAT(environment["command"].get<std::string>(), HasSubstr("cli_test"));
  EXPECT_GE(environment["machine"]["threads"].get<int>(), 1);
  EXPECT_THAT(environment["machine"]["memory"].get<std::string>(), HasSubstr("kB"));
  EXPECT_TRUE(environment["machine"]["gpus"].is_array());
  EXPECT_FALSE(environment["versions"]["cuda_driver"].get<std::string>().empty());
}

}  // namespace
}  // namespace wideep::cli
