#include "base/env.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "base/env_testing.h"

namespace wideep::env {
namespace {

using testing::HasSubstr;

TEST(EnvTest, TheTableNamesEachVariableOnceAndExplainsIt) {
  std::set<std::string> names;
  for (const Variable& variable : variables()) {
    EXPECT_TRUE(names.insert(variable.name).second) << variable.name;
    EXPECT_STRNE(variable.meaning, "") << variable.name;
    EXPECT_STRNE(variable.default_text, "") << variable.name;
  }
  EXPECT_TRUE(names.contains(kMpiSize.name));
}

TEST(EnvTest, UnsetIsNothing) {
  const ScopedVariable unset(kMpiSize, nullptr);
  const Result<std::optional<int>> value = get_int(kMpiSize);
  ASSERT_TRUE(value.is_ok());
  EXPECT_EQ(*value, std::nullopt);
}

TEST(EnvTest, ReadsIntegers) {
  for (const int expected : {0, 7, -3, 2147483647}) {
    const ScopedVariable set(kMpiSize, std::to_string(expected).c_str());
    const Result<std::optional<int>> value = get_int(kMpiSize);
    ASSERT_TRUE(value.is_ok()) << value.status().message();
    EXPECT_EQ(*value, expected);
  }
}

TEST(EnvTest, RefusesWhatIsNoInteger) {
  for (const char* text : {"", "four", "4 ", " 4", "4x", "4.0", "2147483648", "0x4"}) {
    const ScopedVariable set(kMpiRank, text);
    const Result<std::optional<int>> value = get_int(kMpiRank);
    ASSERT_FALSE(value.is_ok()) << "'" << text << "'";
    EXPECT_EQ(value.status().code(), StatusCode::kInvalidInput);
    EXPECT_THAT(value.status().message(), HasSubstr("OMPI_COMM_WORLD_RANK"));
    EXPECT_THAT(value.status().message(), HasSubstr(std::string("'") + text + "'"));
  }
}

TEST(EnvTest, ReadsText) {
  const ScopedVariable unset(kStatisticPath, nullptr);
  EXPECT_EQ(get_text(kStatisticPath), std::nullopt);
  for (const char* text : {"", "a b", "100-200"}) {
    const ScopedVariable set(kStatisticPath, text);
    EXPECT_EQ(get_text(kStatisticPath), text);
  }
}

}  // namespace
}  // namespace wideep::env
