#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/file_testing.h"
#include "cli/commands.h"
#include "config/config.h"

namespace wideep::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Outcome {
  int exit_code = 0;
  std::string out;
  std::string err;
};

// Runs `wideep config ARGUMENTS`.
Outcome run_config(std::vector<std::string> arguments) {
  CLI::App app;
  add_config(app);
  arguments.insert(arguments.begin(), "config");
  std::ranges::reverse(arguments);  // as CLI11 takes them
  Outcome outcome;
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  try {
    app.parse(std::move(arguments));
  } catch (const CLI::RuntimeError& error) {
    outcome.exit_code = error.get_exit_code();
  }
  outcome.out = ::testing::internal::GetCapturedStdout();
  outcome.err = ::testing::internal::GetCapturedStderr();
  return outcome;
}

TEST(ConfigCheck, PrintsAConfigurationThatPasses) {
  const TemporaryFolder folder;
  const std::string path = folder.write("good.yaml", "enable_attention_dp: true\n");
  const Outcome outcome = run_config({"check", path, "--tp", "8", "--ep", "8"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.err, "");
  EXPECT_THAT(outcome.out, HasSubstr("moe_expert_parallel_size: 8 "));
  EXPECT_THAT(outcome.out, HasSubstr("# " + path + ":1\n"));
  const Outcome again = run_config({"check", folder.write("again.yaml", outcome.out)});
  EXPECT_EQ(again.exit_code, 0) << again.err;
}

TEST(ConfigCheck, PrintsEveryViolationAndLeavesWithTwo) {
  const TemporaryFolder folder;
  const std::string path = folder.write("bad.yaml", "moe_confg: 1\nmax_seq_len: 0\n");
  const Outcome outcome = run_config({"check", path, "--tp", "0"});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_THAT(outcome.err, HasSubstr(path + ":1: moe_confg: 1: unknown key"));
  EXPECT_THAT(outcome.err, HasSubstr(path + ":2: max_seq_len: 0: must be an integer"));
  EXPECT_THAT(outcome.err, HasSubstr("--tp: tensor_parallel_size: 0: must be an integer"));
}

TEST(ConfigCheck, MissingFilesAreBadInput) {
  EXPECT_EQ(run_config({"check", "/nonexistent.yaml"}).exit_code, 2);
  EXPECT_EQ(run_config({"check", "--model", "/nonexistent"}).exit_code, 2);
}

TEST(ConfigCheck, PrintsTheKeyTable) {
  const Outcome outcome = run_config({"keys"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.out, config_keys_markdown());
  EXPECT_THAT(outcome.out, StartsWith("| key | type | default | meaning |\n"));
}

}  // namespace
}  // namespace wideep::cli
