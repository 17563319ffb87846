#include "base/progress.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>

#include "base/parallel.h"

namespace wideep {
namespace {

using testing::EndsWith;
using testing::HasSubstr;

constexpr auto kLongerThanARedraw = std::chrono::milliseconds(120);

// Standard error is a pseudo-terminal while this lives.
class TerminalStderr {
 public:
  TerminalStderr() : saved_(::dup(STDERR_FILENO)), screen_(::posix_openpt(O_RDWR | O_NOCTTY)) {
    if (screen_ < 0 || ::grantpt(screen_) != 0 || ::unlockpt(screen_) != 0) return;
    const int terminal = ::open(::ptsname(screen_), O_RDWR | O_NOCTTY);
    if (terminal < 0) return;
    ::dup2(terminal, STDERR_FILENO);
    ::close(terminal);
    ready_ = true;
  }
  TerminalStderr(const TerminalStderr&) = delete;
  ~TerminalStderr() {
    ::dup2(saved_, STDERR_FILENO);
    ::close(saved_);
    ::close(screen_);
  }

  bool ready() const { return ready_; }
  // What has been written so far; empty if nothing.
  std::string read_screen() const {
    ::fcntl(screen_, F_SETFL, O_NONBLOCK);
    char buffer[4096];
    const ssize_t n = ::read(screen_, buffer, sizeof buffer);
    return n > 0 ? std::string(buffer, static_cast<size_t>(n)) : "";
  }

 private:
  int saved_;
  int screen_;
  bool ready_ = false;
};

TEST(ProgressBarTest, PrintsNothingWhereStandardErrorIsNoTerminal) {
  testing::internal::CaptureStderr();  // a file
  {
    ProgressBar bar("planning", 2, "layers");
    std::this_thread::sleep_for(kLongerThanARedraw);
    bar.add();
    bar.add();
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(ProgressBarTest, DrawsOnATerminalAndClearsItsLine) {
  const TerminalStderr terminal;
  if (!terminal.ready()) GTEST_SKIP() << "no pseudo-terminals on this machine";
  {
    ProgressBar bar("planning", 4, "layers");
    bar.add();  // too early to be drawn
    std::this_thread::sleep_for(kLongerThanARedraw);
    bar.add();
    const std::string screen = terminal.read_screen();
    EXPECT_THAT(screen, HasSubstr("planning [###############...............] 2/4 layers"));
  }
  EXPECT_THAT(terminal.read_screen(), EndsWith("\r\033[K"));
}

TEST(ProgressBarTest, ShowsBytesAsGigabytesAndTheirRate) {
  const TerminalStderr terminal;
  if (!terminal.ready()) GTEST_SKIP() << "no pseudo-terminals on this machine";
  ProgressBar bar("loading", 40'000'000'000, "bytes");
  std::this_thread::sleep_for(kLongerThanARedraw);
  bar.add(20'000'000'000);
  const std::string screen = terminal.read_screen();
  EXPECT_THAT(screen, HasSubstr("] 20.00/40.00 GB "));
  EXPECT_THAT(screen, HasSubstr(" GB/s "));
}

TEST(ProgressBarTest, AddsFromManyThreads) {
  const TerminalStderr terminal;
  if (!terminal.ready()) GTEST_SKIP() << "no pseudo-terminals on this machine";
  ProgressBar bar("sampling", 1001, "batches");
  parallel_for(1000, 4, [&](int) { bar.add(); });
  terminal.read_screen();
  std::this_thread::sleep_for(kLongerThanARedraw);
  bar.add();
  EXPECT_THAT(terminal.read_screen(), HasSubstr("1001/1001 batches"));
}

}  // namespace
}  // namespace wideep
