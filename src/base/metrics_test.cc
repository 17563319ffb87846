#include "base/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <thread>

#include "base/file_testing.h"

namespace wideep {
namespace {

TEST(Metrics, TextIsInOrderWhateverTheOrderOfRegistration) {
  MetricsRegistry registry;
  for (const char* layer : {"10", "9", "3"}) {
    registry.gauge("b_ratio", "A ratio.", {{"layer", layer}}).set(0.5);
  }
  registry.counter("a_total", "A count.").add(3);
  const std::array bounds = {0.25, 1.0};
  Histogram& seconds = registry.histogram("c_seconds", "A time.", bounds, {{"phase", "plan"}});
  for (const double value : {0.25, 0.5, 2.0}) seconds.observe(value);
  EXPECT_EQ(registry.text(),
            "# HELP a_total A count.\n"
            "# TYPE a_total counter\n"
            "a_total 3\n"
            "# HELP b_ratio A ratio.\n"
            "# TYPE b_ratio gauge\n"
            "b_ratio{layer=\"3\"} 0.5\n"
            "b_ratio{layer=\"9\"} 0.5\n"
            "b_ratio{layer=\"10\"} 0.5\n"
            "# HELP c_seconds A time.\n"
            "# TYPE c_seconds histogram\n"
            "c_seconds_bucket{phase=\"plan\",le=\"0.25\"} 1\n"
            "c_seconds_bucket{phase=\"plan\",le=\"1\"} 2\n"
            "c_seconds_bucket{phase=\"plan\",le=\"+Inf\"} 3\n"
            "c_seconds_sum{phase=\"plan\"} 2.75\n"
            "c_seconds_count{phase=\"plan\"} 3\n");
}

TEST(Metrics, TheSameNameAndLabelsAreTheSameMetric) {
  MetricsRegistry registry;
  Counter& counter = registry.counter("a_total", "A.", {{"x", "1"}});
  for (int i = 0; i < 100; ++i) registry.counter("a_total", "A.", {{"x", std::to_string(i)}});
  EXPECT_EQ(&registry.counter("a_total", "A.", {{"x", "1"}}), &counter);
  counter.add(2.5);
  EXPECT_EQ(counter.value(), 2.5);
  Gauge& gauge = registry.gauge("b", "B.");
  gauge.set(4);
  registry.gauge("b", "B.").add(-1);
  EXPECT_EQ(gauge.value(), 3);
}

TEST(Metrics, TextCanBeRead) {
  MetricsRegistry registry;
  registry.gauge("a", "Help with \\ and\na line.", {{"x", "\"\n\\"}})
      .set(-std::numeric_limits<double>::infinity());
  registry.counter("b_total", "B.").add(1e300);
  const auto read = parse_metrics(registry.text(), "text");
  ASSERT_TRUE(read.is_ok()) << error_of(read);
  EXPECT_EQ(metrics_text(*read), registry.text());
}

TEST(Metrics, HistogramPutsNanAboveAllBounds) {
  const std::array bounds = {-1.0, 1.0};
  Histogram histogram(bounds);
  for (const double value : {-1.5, -1.0, 0.0, 1.0, 1.5}) histogram.observe(value);
  EXPECT_EQ(histogram.sum(), 0);
  histogram.observe(std::numeric_limits<double>::quiet_NaN());
  EXPECT_THAT(histogram.cumulative_counts(), testing::ElementsAre(2, 4, 6));
}

TEST(Metrics, ThreadsLoseNothing) {
  constexpr int kThreads = 4;
  constexpr int kCalls = 5000;
  MetricsRegistry registry;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&registry] {
        const std::array bounds = {0.5};
        for (int i = 0; i < kCalls; ++i) {
          registry.counter("a_total", "A.").add();
          registry.gauge("b", "B.").add(0.5);
          registry.histogram("c", "C.", bounds).observe(i % 2);
          if (i % 1000 == 0) {
            EXPECT_TRUE(parse_metrics(registry.text(), "text").is_ok());
          }
        }
      });
    }
  }
  const std::array bounds = {0.5};
  constexpr int kAll = kThreads * kCalls;
  EXPECT_EQ(registry.counter("a_total", "A.").value(), kAll);
  EXPECT_EQ(registry.gauge("b", "B.").value(), kAll / 2.0);
  EXPECT_THAT(registry.histogram("c", "C.", bounds).cumulative_counts(),
              testing::ElementsAre(kAll / 2, kAll));
}

TEST(MetricsDeathTest, OurMistakesStop) {
  MetricsRegistry registry;
  registry.counter("a_total", "A.", {{"x", "1"}});
  EXPECT_DEATH(registry.counter("a-b", "A."), "is_metric_name");
  EXPECT_DEATH(registry.counter("b_total", "B.", {{"a:b", ""}}), "is_label_name");
  EXPECT_DEATH(registry.gauge("a_total", "A.", {{"x", "1"}}), "family.type == type");
  EXPECT_DEATH(registry.counter("a_total", "B.", {{"x", "1"}}), "family.help == help");
  EXPECT_DEATH(registry.counter("a_total", "A.", {{"y", "1"}}), "same_label_names");
  EXPECT_DEATH(registry.counter("a_total", "A.", {{"x", "1"}}).add(-1), "amount");
  const std::array descending = {2.0, 1.0};
  EXPECT_DEATH(Histogram histogram(descending), "is_sorted");
}

}  // namespace
}  // namespace wideep
