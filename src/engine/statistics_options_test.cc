#include "engine/statistics_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/env_testing.h"

namespace wideep::engine {
namespace {

using ::testing::HasSubstr;

Result<std::optional<StatisticsOptions>> options_with(const char* path, const char* range) {
  const env::ScopedVariable set_path(env::kStatisticPath, path);
  const env::ScopedVariable set_range(env::kStatisticIterRange, range);
  return statistics_from_environment();
}

TEST(StatisticsOptions, ReadsTheExampleOfTheReadme) {
  const auto options = options_with("./expert_statistic", "100-200").value();
  ASSERT_TRUE(options);
  EXPECT_EQ(options->folder, "./expert_statistic");
  EXPECT_EQ(options->iter_start, 100);
  EXPECT_EQ(options->iter_stop, 200);
}

TEST(StatisticsOptions, SpacesAroundNumbersAreFine) {
  const auto options = options_with("a", " 0 - 1\n").value();
  ASSERT_TRUE(options);
  EXPECT_EQ(options->iter_start, 0);
  EXPECT_EQ(options->iter_stop, 1);
}

TEST(StatisticsOptions, WithoutARangeThereAreNone) {
  EXPECT_FALSE(options_with(nullptr, nullptr).value());
  EXPECT_FALSE(options_with("./expert_statistic", nullptr).value());
}

TEST(StatisticsOptions, NamesVariableValueAndRule) {
  for (const char* range : {"", "100", "100-", "-200", "100-200-300", "1e2-200", "100:200",
                            "100--200", "a-b", "1-2147483647", "1-99999999999999999999"}) {
    const auto options = options_with("a", range);
    ASSERT_FALSE(options.is_ok()) << range;
    EXPECT_EQ(options.status().code(), StatusCode::kInvalidInput);
    EXPECT_EQ(options.status().message(),
              std::string("environment variable EXPERT_STATISTIC_ITER_RANGE: '") + range +
                  "': must be two iterations START-STOP, such as 100-200");
  }
  for (const char* range : {"200-100", "5-5"}) {
    EXPECT_THAT(options_with("a", range).status().message(),
                HasSubstr("START must be less than STOP"));
  }
  for (const char* path : {static_cast<const char*>(nullptr), ""}) {
    EXPECT_EQ(options_with(path, "1-2").status().message(),
              "environment variable EXPERT_STATISTIC_PATH: '': must name the folder for the "
              "statistics, because EXPERT_STATISTIC_ITER_RANGE is 1-2; unset that to run without");
  }
}

}  // namespace
}  // namespace wideep::engine
