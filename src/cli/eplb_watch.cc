// wideep eplb watch: a live view of a job's balancer, from its metrics file.
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "cli/commands.h"
#include "cli/watch_loop.h"

namespace wideep::cli {
namespace {

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

int terminal_rows() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_row : 0;
}

// Shows texts in the place of the one before.
class Screen {
 public:
  explicit Screen(bool replaces) : replaces_(replaces) {}

  void show(const std::string& text) {
    if (replaces_ && lines_ > 0) fmt::print("\x1b[{}A\x1b[J", lines_);
    fmt::print("{}", text);
    std::fflush(stdout);
    lines_ = std::ranges::count(text, '\n');
  }

 private:
  bool replaces_;
  std::ptrdiff_t lines_ = 0;  // of the last text
};

Status run(WatchOptions options) {
  const bool terminal = ::isatty(STDOUT_FILENO) == 1;
  options.lines = !terminal && !options.once;
  Screen screen(terminal && !options.once);
  WatchEnvironment environment;
  environment.now = seconds_since_1970;
  environment.sleep = [](double seconds) {
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  };
  environment.screen_rows = [&] { return terminal && !options.once ? terminal_rows() : 0; };
  environment.show = [&screen](const std::string& text) { screen.show(text); };
  return watch_job(options, environment);
}

}  // namespace

void add_eplb_watch(CLI::App& eplb) {
  CLI::App* command =
      eplb.add_subcommand("watch", "Watch a running job: imbalance of each layer, moves, planner");
  const auto options = std::make_shared<WatchOptions>();
  command
      ->add_option("--metrics", options->path,
                   "The job's metrics file, its --metrics_file; waited for where it is not there")
      ->required();
  command->add_flag("--once", options->once, "Show what is there and end");
  command->add_option("--interval", options->interval, "Seconds between looks at the file")
      ->capture_default_str()
      ->check(CLI::Range(0.01, 3600.0));
  command
      ->add_option("--timeout", options->timeout,
                   "Seconds to wait for the file, and for a job that has gone silent")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e6));
  command->callback([options] { finish(run(*options)); });
}

}  // namespace wideep::cli
