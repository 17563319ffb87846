// Runs a command in this process, as main() would.
#pragma once

#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <vector>

namespace wideep::cli {

struct CommandResult {
  int exit_code = 0;
  std::string out;
  std::string err;
};

// add declares the command that the first word of args names.
inline CommandResult run_command(void (*add)(CLI::App&), std::vector<std::string> args) {
  CLI::App app("wideep", "wideep");
  app.require_subcommand(1);
  add(app);
  std::reverse(args.begin(), args.end());  // CLI11 takes them from the back
  CommandResult result;
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  try {
    app.parse(args);
  } catch (const CLI::RuntimeError& error) {
    result.exit_code = error.get_exit_code();
  } catch (const CLI::ParseError& error) {
    result.exit_code = app.exit(error) == 0 ? 0 : 2;
  }
  result.out = testing::internal::GetCapturedStdout();
  result.err = testing::internal::GetCapturedStderr();
  return result;
}

}  // namespace wideep::cli
