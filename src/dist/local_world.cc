#include <fmt/format.h>
#include <pthread.h>

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

class LocalTransport : public Transport {
 public:
  explicit LocalTransport(int size) : size_(size) {}

  int size() const override { return size_; }
  bool holds_rank_zero() const override { return true; }

  Status run(const RankBody& body) override {
    // Shared with the groups, which a body may have handed to somebody who keeps them.
    const auto state = std::make_shared<LocalState>(size_);
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
};

}  // namespace

std::unique_ptr<Transport> make_local_transport(int size) {
  return std::make_unique<LocalTransport>(size);
}

}  // namespace wideep::dist
