#include "base/metrics_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/file_testing.h"
#include "base/random.h"

namespace wideep {
namespace {

TEST(MetricNames, FollowPrometheus) {
  for (const char* good : {"a", "_", ":", "wideep_tokens_total", "a1:b"}) {
    EXPECT_TRUE(is_metric_name(good)) << good;
  }
  for (const char* bad : {"", "1a", "a-b", "a b", "ä"}) EXPECT_FALSE(is_metric_name(bad)) << bad;
  EXPECT_TRUE(is_label_name("layer_0"));
  EXPECT_FALSE(is_label_name("a:b"));
}

// From the documentation of the format.
TEST(MetricsText, WritesAndReadsTheFormatsExample) {
  const std::vector<MetricFamily> families = {
      {"http_requests_total",
       "The total number of HTTP requests.",
       MetricType::kCounter,
       {{"http_requests_total", {{"method", "post"}, {"code", "200"}}, 1027, 1395066363000},
        {"http_requests_total", {{"method", "post"}, {"code", "400"}}, 3, 1395066363000}}},
      {"msdos_file_access_time_seconds",
       "",
       MetricType::kUntyped,
       {{"msdos_file_access_time_seconds",
         {{"path", "C:\\DIR\\FILE.TXT"}, {"error", "Cannot find file:\n\"FILE.TXT\""}},
         1.458255915e9}}},
      {"rpc_duration_seconds",
       "A summary\nof the \\ RPC duration.",
       MetricType::kSummary,
       {{"rpc_duration_seconds", {{"quantile", "0.01"}}, 3102},
        {"rpc_duration_seconds_sum", {}, 1.75e-7},
        {"rpc_duration_seconds_count", {}, std::numeric_limits<double>::infinity()}}}};
  const std::string text =
      "# HELP http_requests_total The total number of HTTP requests.\n"
      "# TYPE http_requests_total counter\n"
      "http_requests_total{method=\"post\",code=\"200\"} 1027 1395066363000\n"
      "http_requests_total{method=\"post\",code=\"400\"} 3 1395066363000\n"
      "# TYPE msdos_file_access_time_seconds untyped\n"
      "msdos_file_access_time_seconds{path=\"C:\\\\DIR\\\\FILE.TXT\","
      "error=\"Cannot find file:\\n\\\"FILE.TXT\\\"\"} 1458255915\n"
      "# HELP rpc_duration_seconds A summary\\nof the \\\\ RPC duration.\n"
      "# TYPE rpc_duration_seconds summary\n"
      "rpc_duration_seconds{quantile=\"0.01\"} 3102\n"
      "rpc_duration_seconds_sum 1.75e-07\n"
      "rpc_duration_seconds_count +Inf\n";
  EXPECT_EQ(metrics_text(families), text);
  const auto read = parse_metrics(text, "m");
  ASSERT_TRUE(read.is_ok()) << error_of(read);
  ASSERT_EQ(read->size(), 3U);
  EXPECT_EQ((*read)[1].samples[0].labels, families[1].samples[0].labels);
  EXPECT_EQ((*read)[0].samples[1].timestamp_ms, 1395066363000);
  EXPECT_EQ((*read)[2].help, families[2].help);
  EXPECT_EQ(metrics_text(*read), text);
}

TEST(MetricsText, ReadsWhatOthersWrite) {
  const auto read = parse_metrics(
      "# a comment\n"
      "\n"
      "  #\tTYPE  x\tgauge \n"
      "x { a = \"1\" , b = \"}\" , }\t-2.5e3\t -7 \n"
      "x{} +1\n"
      "y nan\n"
      "# HELP z\n"
      "z -inf\n",
      "m");
  ASSERT_TRUE(read.is_ok()) << error_of(read);
  EXPECT_EQ(metrics_text(*read),
            "# TYPE x gauge\n"
            "x{a=\"1\",b=\"}\"} -2500 -7\n"
            "x 1\n"
            "# TYPE y untyped\n"
            "y NaN\n"
            "# TYPE z untyped\n"
            "z -Inf\n");
  EXPECT_TRUE(parse_metrics("", "m")->empty());
}

TEST(MetricsText, FindsFamilies) {
  const auto read = parse_metrics("a 1\nb 2\n", "m");
  ASSERT_TRUE(read.is_ok());
  EXPECT_EQ(find_family(*read, "b")->samples[0].value, 2);
  EXPECT_EQ(find_family(*read, "c"), nullptr);
}

TEST(MetricsText, RandomLabelsAndValuesSurvive) {
  Random random(1);
  for (int round = 0; round < 300; ++round) {
    MetricFamily family{"m", "", MetricType::kGauge, {}};
    for (int s = 0; s < 3; ++s) {
      std::string label = std::to_string(s);
      for (uint64_t i = random.below(8); i > 0; --i) {
        label += "\\\"\n ,}={x\xc3"[random.below(10)];
      }
      const double value = std::ldexp(random.uniform() - 0.5, static_cast<int>(random.below(200)));
      family.samples.push_back({"m", {{"a", label}}, value});
    }
    const auto read = parse_metrics(metrics_text({&family, 1}), "m");
    ASSERT_TRUE(read.is_ok()) << error_of(read);
    for (size_t s = 0; s < 3; ++s) {
      EXPECT_EQ((*read)[0].samples[s].labels, family.samples[s].labels);
      EXPECT_EQ((*read)[0].samples[s].value, family.samples[s].value);
    }
  }
}

struct BadText {
  const char* text;
  const char* message;
};

class MetricsTextErrors : public testing::TestWithParam<BadText> {};

TEST_P(MetricsTextErrors, NameTheLine) {
  const auto read = parse_metrics(GetParam().text, "job.prom");
  ASSERT_FALSE(read.is_ok());
  EXPECT_EQ(read.status().code(), StatusCode::kInvalidInput);
  EXPECT_EQ(error_of(read), std::string("job.prom:") + GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    All, MetricsTextErrors,
    testing::Values(
        BadText{"a 1\nb 2", "2: the last line has no end: the file is cut short"},
        BadText{"\n1a 2\n", "2: \"1a\": is no metric name ([a-zA-Z_:][a-zA-Z0-9_:]*)"},
        BadText{"# TYPE a-b gauge\n", "1: \"a-b\": is no metric name ([a-zA-Z_:][a-zA-Z0-9_:]*)"},
        BadText{"a 1\nb 1\na{x=\"1\"} 1\n",
                "3: a: its lines must stand together, once in the file"},
        BadText{"# HELP a x\n# HELP a x\n", "2: a: has a second HELP line"},
        BadText{"# TYPE a gauge\n# TYPE a gauge\n", "2: a: has a second TYPE line"},
        BadText{"a 1\n# TYPE a gauge\n", "2: a: TYPE must stand before the samples"},
        BadText{"# TYPE a real\n",
                "1: a: TYPE must be counter, gauge, histogram, summary or untyped"},
        BadText{"# TYPE a gauge b\n",
                "1: a: TYPE must be counter, gauge, histogram, summary or untyped"},
        BadText{"# HELP a b\\t\n", "1: a: HELP has a bad escape: \\\\ and \\n are allowed"},
        BadText{"# HELP a b\\\n", "1: a: HELP has a bad escape: \\\\ and \\n are allowed"},
        BadText{"a{1=\"x\"} 1\n", "1: a: \"1\" is no label name ([a-zA-Z_][a-zA-Z0-9_]*)"},
        BadText{"a{x=1} 1\n", "1: a: label x: must be x=\"value\""},
        BadText{"a{x} 1\n", "1: a: label x: must be x=\"value\""},
        BadText{"a{x=\"1} 1\n",
                "1: a: label x: must end with '\"'; \\\\, \\\" and \\n are its escapes"},
        BadText{"a{x=\"\\t\"} 1\n",
                "1: a: label x: must end with '\"'; \\\\, \\\" and \\n are its escapes"},
        BadText{"a{x=\"1\",x=\"2\"} 1\n", "1: a: label x: twice"},
        BadText{"a{x=\"1\" y=\"2\"} 1\n", "1: a: labels must be separated by ',' and end with '}'"},
        BadText{"a{x=\"1\"\n", "1: a: labels must be separated by ',' and end with '}'"},
        BadText{"a\n", "1: a: \"\" is no value"}, BadText{"a 1x\n", "1: a: \"1x\" is no value"},
        BadText{"a --1\n", "1: a: \"--1\" is no value"},
        BadText{"a 1 2.5\n", "1: a: after the value may only stand a time in whole milliseconds"},
        BadText{"a 1 2 3\n", "1: a: after the value may only stand a time in whole milliseconds"},
        BadText{"a 1\na 2\n", "2: a: twice with these labels"},
        BadText{"# TYPE a histogram\na 1\n",
                "2: a: is a histogram: its samples are a_bucket, a_sum and a_count"}));

}  // namespace
}  // namespace wideep
