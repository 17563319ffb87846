#include "base/metrics_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_testing.h"

namespace wideep {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

// No test waits as long, so that only the first and the last write happen.
constexpr milliseconds kNever{3'600'000};

double value_in(const std::string& path, const std::string& name) {
  const auto families = parse_metrics(contents_of(path), path);
  EXPECT_TRUE(families.is_ok()) << error_of(families);
  const MetricFamily* family = find_family(*families, name);
  return family == nullptr ? -1 : family->samples[0].value;
}

TEST(MetricsFile, HoldsTheFirstAndTheLastValues) {
  const TemporaryFolder folder;
  const std::string path = folder / "job.prom";
  MetricsRegistry registry;
  Counter& counter = registry.counter("a_total", "A.");
  counter.add(1);
  auto file = MetricsFile::create(registry, {path, kNever});
  ASSERT_TRUE(file.is_ok()) << error_of(file);
  EXPECT_EQ(value_in(path, "a_total"), 1);
  const double first = value_in(path, "wideep_heartbeat_timestamp_seconds");
  EXPECT_GT(first, 1.5e9);
  counter.add(1);
  EXPECT_EQ(value_in(path, "a_total"), 1);
  EXPECT_EQ(error_of((*file)->close()), "");
  EXPECT_EQ(value_in(path, "a_total"), 2);
  EXPECT_GE(value_in(path, "wideep_heartbeat_timestamp_seconds"), first);
}

TEST(MetricsFile, IsWrittenAgainAndAgain) {
  const TemporaryFolder folder;
  const std::string path = folder / "job.prom";
  MetricsRegistry registry;
  Counter& counter = registry.counter("a_total", "A.");
  const auto file = MetricsFile::create(registry, {path, milliseconds(1)});
  ASSERT_TRUE(file.is_ok()) << error_of(file);
  // Ends as soon as the thread has written each value; a hang here is a failure.
  for (int value = 1; value <= 3; ++value) {
    counter.add(1);
    while (value_in(path, "a_total") != value) std::this_thread::yield();
  }
}

TEST(MetricsFile, WritesAtItsEndWithoutClose) {
  const TemporaryFolder folder;
  const std::string path = folder / "job.prom";
  MetricsRegistry registry;
  {
    const auto file = MetricsFile::create(registry, {path, kNever});
    ASSERT_TRUE(file.is_ok()) << error_of(file);
    registry.counter("a_total", "A.").add(7);
  }
  EXPECT_EQ(value_in(path, "a_total"), 7);
}

TEST(MetricsFile, AFolderThatIsNotThereIsAnErrorAtOnce) {
  const TemporaryFolder folder;
  MetricsRegistry registry;
  const auto file = MetricsFile::create(registry, {folder / "no/job.prom", kNever});
  EXPECT_THAT(error_of(file), HasSubstr("no/job.prom: cannot create a file beside it"));
}

TEST(MetricsFile, AFullDiskKeepsTheLastWholeFileAndIsSaidAtTheEnd) {
  const TemporaryFolder folder;
  const std::string path = folder / "job.prom";
  MetricsRegistry registry;
  auto file = MetricsFile::create(registry, {path, kNever});
  ASSERT_TRUE(file.is_ok()) << error_of(file);
  const std::string before = contents_of(path);
  for (int i = 0; i < 1000; ++i) registry.gauge("a", "A.", {{"i", std::to_string(i)}});
  {
    const FileSizeLimit full(4096);
    EXPECT_THAT(error_of((*file)->close()), HasSubstr("job.prom: cannot write"));
  }
  EXPECT_EQ(contents_of(path), before);
}

}  // namespace
}  // namespace wideep
