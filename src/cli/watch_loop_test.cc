#include "cli/watch_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "base/file_testing.h"
#include "cli/cli_testing.h"
#include "cli/commands.h"
#include "cli/watch_testing.h"

namespace wideep::cli {
namespace {

namespace metric = engine::metric;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

// A job and who watches it, in a time of their own that begins at 1000 s.
class WatchTest : public testing::Test {
 protected:
  WatchTest() {
    options_.path = folder_ / "job.prom";
    options_.lines = true;
    environment_.now = [this] { return now_; };
    environment_.sleep = [this](double seconds) {
      now_ += seconds;
      if (on_sleep_) on_sleep_();
    };
    environment_.screen_rows = [] { return 0; };
    environment_.show = [this](const std::string& text) { shown_.push_back(text); };
  }

  void write() { folder_.write("job.prom", job_.text()); }
  Status watch() { return watch_job(options_, environment_); }

  TemporaryFolder folder_;
  WatchOptions options_;
  WatchEnvironment environment_;
  double now_ = 1000;
  std::function<void()> on_sleep_;
  std::vector<std::string> shown_;
  FakeJob job_;
};

TEST_F(WatchTest, ShowsChangesUntilTheJobEnds) {
  write();
  on_sleep_ = [this] {
    const double step = now_ - 1000;
    if (step == 1 || step == 2) job_.iterate(now_);
    if (step == 3) job_.set(metric::kRunning, 0);
    write();
  };
  EXPECT_EQ(error_of(watch()), "");
  EXPECT_THAT(shown_,
              ElementsAre("running: iteration 0, 0 tokens\n", "running: iteration 1, 0 tokens\n",
                          "running: iteration 2, 0 tokens\n", "ended: iteration 2, 0 tokens\n"));
  EXPECT_EQ(now_, 1003);
}

TEST_F(WatchTest, TellsIterationsASecond) {
  options_.lines = false;
  options_.interval = 2;
  write();
  on_sleep_ = [this] {
    for (int i = 0; i < 5; ++i) job_.iterate(now_);
    job_.set(metric::kRunning, 0);
    write();
  };
  EXPECT_EQ(error_of(watch()), "");
  ASSERT_EQ(shown_.size(), 2U);
  EXPECT_THAT(shown_[0], HasSubstr("iteration 0, 0 tokens"));
  EXPECT_THAT(shown_[1], HasSubstr("iteration 5 (2.5/s), 0 tokens"));
}

TEST_F(WatchTest, FitsTheScreen) {
  options_.lines = false;
  options_.once = true;
  for (int layer = 0; layer < 60; ++layer) job_.set_layer(layer, 0.5, 0.5, 0.5);
  job_.set(metric::kRanks, 4);
  write();
  environment_.screen_rows = [] { return 24; };
  EXPECT_EQ(error_of(watch()), "");
  EXPECT_LT(std::ranges::count(shown_.at(0), '\n'), 24);
  EXPECT_THAT(shown_[0], HasSubstr("(49 more even layers)"));
}

TEST_F(WatchTest, WaitsForTheFile) {
  options_.once = true;
  on_sleep_ = [this] {
    if (now_ == 1007) write();
  };
  EXPECT_EQ(error_of(watch()), "");
  EXPECT_EQ(shown_.size(), 1U);

  options_.path = folder_ / "never.prom";
  const Status status = watch();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_EQ(error_of(status),
            options_.path + ": did not appear in 30 s: was the job started with --metrics_file?");
  EXPECT_EQ(now_, 1037);
}

TEST_F(WatchTest, SaysWhenTheJobGoesSilentAndGivesUp) {
  options_.timeout = 10;
  write();
  const Status status = watch();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(error_of(status), HasSubstr("job.prom: the job has been silent for"));
  EXPECT_THAT(shown_, ElementsAre(StartsWith("running"), StartsWith("SILENT for")));

  shown_.clear();
  options_.once = true;  // says it, and that is all
  EXPECT_EQ(error_of(watch()), "");
  EXPECT_THAT(shown_, ElementsAre(StartsWith("SILENT for")));
}

TEST_F(WatchTest, RefusesOtherFiles) {
  folder_.write("job.prom", "cut short");
  EXPECT_THAT(error_of(watch()), HasSubstr("job.prom:1: the last line has no end"));
  folder_.write("job.prom", "node_load1 1\n");
  EXPECT_THAT(error_of(watch()), HasSubstr("job.prom: wideep_running is missing"));
}

TEST_F(WatchTest, TheCommandShowsAnEndedJob) {
  job_.set(metric::kRunning, 0);
  job_.set_layer(2, 0.5, 0.25, 1);
  write();
  CommandResult result = run_command(add_eplb_watch, {"watch", "--metrics", options_.path});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, StartsWith("ended: iteration 0"));  // not on a terminal: lines
  result = run_command(add_eplb_watch, {"watch", "--metrics", options_.path, "--once"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("layer 2       0.5000    0.2500    1.0000"));
  result = run_command(add_eplb_watch,
                       {"watch", "--metrics", folder_ / "none", "--once", "--timeout", "0"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("none: did not appear in 0 s"));
}

}  // namespace
}  // namespace wideep::cli
