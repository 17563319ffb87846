#include "base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace wideep {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kRedraw = std::chrono::milliseconds(100);
constexpr int kWidth = 30;

}  // namespace

ProgressBar::ProgressBar(std::string what, int64_t total, std::string unit)
    : what_(std::move(what)),
      total_(std::max<int64_t>(total, 1)),
      unit_(std::move(unit)),
      terminal_(::isatty(STDERR_FILENO) == 1),
      start_(Clock::now()),
      drawn_(start_) {}

ProgressBar::~ProgressBar() {
  if (visible_) std::fputs("\r\033[K", stderr);
}

void ProgressBar::add(int64_t done) {
  const int64_t now_done = done_.fetch_add(done) + done;
  if (!terminal_) return;
  const std::unique_lock lock(mutex_, std::try_to_lock);
  const auto now = Clock::now();
  if (!lock.owns_lock() || now - drawn_ < kRedraw) return;
  drawn_ = now;
  draw(now_done);
}

void ProgressBar::draw(int64_t done) {
  const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total_));
  const int filled = static_cast<int>(share * kWidth);
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  const double left = share > 0 ? seconds / share - seconds : 0;
  fmt::print(stderr, "\r\033[K{} [{:#<{}}{:.<{}}] {} {:.0f}s left", what_, "", filled, "",
             kWidth - filled, counts(done, seconds), left);
  std::fflush(stderr);
  visible_ = true;
}

std::string ProgressBar::counts(int64_t done, double seconds) const {
  if (unit_ != "bytes") return fmt::format("{}/{} {}", done, total_, unit_);
  const double gigabytes = static_cast<double>(done) * 1e-9;
  return fmt::format("{:.2f}/{:.2f} GB {:.2f} GB/s", gigabytes, static_cast<double>(total_) * 1e-9,
                     seconds > 0 ? gigabytes / seconds : 0);
}

}  // namespace wideep
