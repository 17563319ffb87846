#include "cli/watch_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_testing.h"
#include "cli/watch_testing.h"

namespace wideep::cli {
namespace {

namespace metric = engine::metric;
using testing::HasSubstr;
using testing::Not;

Result<WatchedJob> read_job(const std::string& text) {
  const auto families = parse_metrics(text, "job.prom");
  EXPECT_TRUE(families.is_ok()) << error_of(families);
  return watched_job(*families, "job.prom");
}

WatchedJob job_of(const FakeJob& fake) {
  const auto job = read_job(fake.text());
  EXPECT_TRUE(job.is_ok()) << error_of(job);
  return *job;
}

FakeJob two_layers() {
  FakeJob fake;
  for (int i = 0; i < 1234; ++i) fake.iterate(1000);
  fake.count(metric::kTokens, 1'234'567);
  fake.set(metric::kRequestsRunning, 96);
  fake.set(metric::kRequestsWaiting, 5);
  fake.set(metric::kRanks, 9);
  fake.set(metric::kSlots, 72);
  fake.set_layer(3, 0.25, 0.125, 1.0);
  fake.set_layer(10, 0.0, 0.0625, 0.5);
  fake.update_layer(3, 0.75, 0.0625, 17);
  fake.count(metric::kPlans, 3, {{"outcome", "kept"}});
  fake.count(metric::kWaitSeconds, 0.5);
  return fake;
}

TEST(WatchedJob, HasWhatTheMetricsSay) {
  const WatchedJob job = job_of(two_layers());
  EXPECT_TRUE(job.running);
  EXPECT_EQ(job.iterations, 1234);
  ASSERT_EQ(job.layers.size(), 2U);
  EXPECT_EQ(job.layers[0].layer, 3);
  EXPECT_EQ(job.layers[0].before, 0.75);
  EXPECT_EQ(job.layers[0].transfers, 17);
  EXPECT_EQ(job.layers[1].before, std::nullopt);
  EXPECT_EQ(job.layers[1].transfers, 0);
  EXPECT_EQ(job.transfer_bytes, 17'000);
  EXPECT_EQ(job.plans_moved, 1);
  EXPECT_EQ(job.plans_kept, 3);
}

TEST(WatchedJob, NeedsTheMetricsOfAJob) {
  EXPECT_EQ(error_of(read_job("node_load1 0.5\n")),
            "job.prom: wideep_running is missing: this is not the metrics file of a wideep job");
  for (const char* labels : {"", "{layer=\"x\"}", "{layer=\"-1\"}", "{level=\"1\"}"}) {
    FakeJob fake;
    EXPECT_EQ(error_of(read_job(fake.text() + "wideep_eplb_imbalance_ratio" + labels + " 1\n")),
              "job.prom: wideep_eplb_imbalance_ratio: needs a label layer with the layer's number");
  }
}

TEST(WatchedJob, SurvivesNumbersThatMakeNoSense) {
  FakeJob fake = two_layers();
  fake.set_layer(3, std::nan(""), 1e300, -INFINITY);
  fake.count(metric::kTokens, 1e300);
  const std::string text = watch_text(job_of(fake), {.name = "f", .now = 1000});
  EXPECT_THAT(text, HasSubstr("9,000,000,000,000,000,000 tokens"));
}

TEST(WatchText, ShowsLayersAndMoves) {
  const std::string text = watch_text(job_of(two_layers()),
                                      {.name = "job.prom", .now = 1001, .iterations_per_s = 12.34});
  EXPECT_EQ(text,
            "job.prom: running\n"
            "iteration 1,234 (12.3/s), 1,234,567 tokens; requests: 96 running, 5 waiting\n"
            "9 ranks, 72 slots a layer\n"
            "\n"
            "imbalance        now   average  in order         last update  transfers\n"
            "layer 3       0.2500    0.1250    1.0000    0.7500 -> 0.0625         17  "
            "██████░░░░░░░░░░░░░░░░░░\n"
            "layer 10      0.0000    0.0625    0.5000                   -          0  "
            "░░░░░░░░░░░░\n"
            "average       0.1250    0.0938    0.7500                   -         17  "
            "███░░░░░░░░░░░░░░░\n"
            "\n"
            "moves     17 experts (17.0 kB) in 1 commits\n"
            "planner   4 plans: 1 moved experts, 3 kept them; 0.250 s (62.50 ms a plan)\n"
            "waiting   0.500 s for plans and transfers\n");
  EXPECT_EQ(watch_line(job_of(two_layers()), {.name = "job.prom", .now = 1001}),
            "running: iteration 1234, 1234567 tokens, imbalance 0.1250 now, 0.0938 average, 0.7500 "
            "in order; 17 transfers (17.0 kB)\n");
}

TEST(WatchText, KeepsTheMostUnevenLayersWhereThereAreTooMany) {
  FakeJob fake;
  for (int layer = 0; layer < 5; ++layer) {
    fake.set_layer(layer, layer == 1 || layer == 3 ? 0.5 : 0.25, 0, 1);
  }
  const std::string text = watch_text(job_of(fake), {.name = "f", .now = 1000, .max_layers = 2});
  EXPECT_THAT(text, HasSubstr("layer 1 "));
  EXPECT_THAT(text, HasSubstr("layer 3 "));
  EXPECT_THAT(text, Not(HasSubstr("layer 0 ")));
  EXPECT_THAT(text, HasSubstr("(3 more even layers)\n"));
  EXPECT_THAT(text, HasSubstr("average       0.3500"));
}

TEST(WatchText, AJobWithoutLoadsYet) {
  const FakeJob fake;
  EXPECT_EQ(watch_text(job_of(fake), {.name = "f", .now = 1000}),
            "f: running\n"
            "iteration 0, 0 tokens; requests: 0 running, 0 waiting\n"
            "no loads of experts yet\n");
}

TEST(JobState, TellsWaitingFromStuckSilentAndEnded) {
  FakeJob fake;
  fake.iterate(1000);
  EXPECT_EQ(job_state(job_of(fake), 1004, 5), JobState::kRunning);
  EXPECT_EQ(job_state(job_of(fake), 1006, 5), JobState::kSilent);
  EXPECT_THAT(watch_text(job_of(fake), {.name = "f", .now = 1012}),
              HasSubstr("SILENT for 12 s: the job is gone or stopped"));

  fake.set(metric::kHeartbeat, 1020);  // metrics come, iterations do not: nothing to do
  EXPECT_EQ(job_state(job_of(fake), 1021, 5), JobState::kRunning);
  fake.set(metric::kRequestsRunning, 1);
  EXPECT_EQ(job_state(job_of(fake), 1021, 5), JobState::kStuck);
  EXPECT_THAT(watch_text(job_of(fake), {.name = "f", .now = 1021}),
              HasSubstr("STUCK: no iteration for 21 s"));

  fake.set(metric::kRunning, 0);
  EXPECT_EQ(job_state(job_of(fake), 2000, 5), JobState::kEnded);
}

}  // namespace
}  // namespace wideep::cli
