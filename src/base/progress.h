// A progress bar on standard error: drawn only where that is a terminal, at most ten times a
// second.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

namespace wideep {

// add() may be called from any thread; the bar is finished and its line cleared on destruction.
class ProgressBar {
 public:
  // `what` stands before the bar ("planning"), `unit` behind the counts ("layers"). Of the unit
  // "bytes" the counts are shown as GB (1e9), with GB/s since the start.
  ProgressBar(std::string what, int64_t total, std::string unit);
  ProgressBar(const ProgressBar&) = delete;
  ~ProgressBar();

  void add(int64_t done = 1);

 private:
  void draw(int64_t done);
  std::string counts(int64_t done, double seconds) const;

  const std::string what_;
  const int64_t total_;
  const std::string unit_;
  const bool terminal_;
  const std::chrono::steady_clock::time_point start_;
  std::atomic<int64_t> done_{0};
  std::mutex mutex_;
  std::chrono::steady_clock::time_point drawn_;
  bool visible_ = false;
};

}  // namespace wideep
