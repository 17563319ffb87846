#include <fmt/format.h>
#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <numeric>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "dist/local_group.h"
#include "dist/local_state.h"
#include "dist/transport.h"

namespace wideep::dist {

namespace {

// Ends the process where a run goes on for too long after it was aborted.
class Watchdog {
 public:
  Watchdog(LocalState& state, const LocalOptions& options) : state_(state), options_(options) {
    if (options_.abort_after_seconds) thread_ = std::thread([this] { watch(); });
  }
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      is_over_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  static constexpr std::chrono::milliseconds kPoll{100};

  void watch() {
    if (!sleep_until([this] { return !state_.cause().is_ok(); })) return;
    const auto deadline =
        std::chrono::steady_clock::now() + std::chrono::seconds(*options_.abort_after_seconds);
    if (!sleep_until([&] { return std::chrono::steady_clock::now() > deadline; })) return;
    const Status cause = state_.cause();
    if (options_.on_kill) options_.on_kill(cause);
    std::_Exit(cause.exit_code());
  }

  // False where the run is over before.
  bool sleep_until(const std::function<bool()>& condition) {
    std::unique_lock lock(mutex_);
    while (!is_over_) {
      if (condition()) return true;
      changed_.wait_for(lock, kPoll);
    }
    return false;
  }

  LocalState& state_;
  const LocalOptions& options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_over_ = false;
  std::thread thread_;
};

class LocalTransport : public Transport {
 public:
  LocalTransport(int size, const LocalOptions& options) : size_(size), options_(options) {}

  int size() const override { return size_; }
  bool holds_rank_zero() const override { return true; }

  Status run(const RankBody& body) override {
    // Shared with the groups, which a body may have handed to somebody who keeps them.
    const auto state = std::make_shared<LocalState>(size_);
    const Watchdog watchdog(*state, options_);
    std::vector<int> ranks(size_);
    std::iota(ranks.begin(), ranks.end(), 0);
    const auto everyone = std::make_shared<LocalGroup>(state, std::move(ranks));
    const auto run_rank = [&](int rank) {
      LocalCommunicator communicator(everyone, rank);
      Status status = run_guarded(body, communicator);
      if (!status.is_ok()) {
        state->abort(size_ == 1 ? std::move(status)
                                : status.prefixed(fmt::format("rank {}: ", rank)));
      }
      state->end(rank);
    };
    std::vector<std::thread> threads;
    if (start(threads, *state, run_rank)) run_rank(0);
    for (std::thread& thread : threads) thread.join();
    return state->cause();
  }

 private:
  // Starts ranks 1 to size - 1; where the system refuses a thread, the run is aborted.
  template <typename RunRank>
  bool start(std::vector<std::thread>& threads, LocalState& state, const RunRank& run_rank) const {
    threads.reserve(size_ - 1);
    for (int rank = 1; rank < size_; ++rank) {
      try {
        threads.emplace_back(run_rank, rank);
      } catch (const std::system_error& error) {
        state.abort(Status::io(
            fmt::format("rank {} of {}: cannot start a thread: {}", rank, size_, error.what())));
        return false;
      }
      // A name for debuggers and profilers; nothing depends on it.
      pthread_setname_np(threads.back().native_handle(), fmt::format("rank {}", rank).c_str());
    }
    return true;
  }

  const int size_;
  const LocalOptions options_;
};

}  // namespace

std::unique_ptr<Transport> make_local_transport(int size, const LocalOptions& options) {
  return std::make_unique<LocalTransport>(size, options);
}

}  // namespace wideep::dist
