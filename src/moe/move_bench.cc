#include "moe/move_bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/stream_clock.h"
#include "kernels/transfer.h"
#include "moe/expert_copies.h"

namespace wideep::moe {
namespace {

constexpr int kPlaces = 8;  // experts under way at a time
constexpr int kCalls = 10;

class MoveBench {
 public:
  MoveBench(Stream& stream, dist::Communicator& group, const SlotBytes& slot)
      : stream_(stream), group_(group), slot_(slot) {}

  Result<MoveTimes> run() {
    ASSIGN_OR_RETURN(copies_, make_device_copies(stream_, group_,
                                                 {.gate_up_bytes = std::ssize(slot_.gate_up),
                                                  .down_bytes = std::ssize(slot_.down),
                                                  .places = kPlaces}));
    std::vector<int64_t> copies;  // nanoseconds, which ranks can compare
    std::vector<int64_t> commits;
    for (int call = 0; call < kCalls; ++call) {
      ASSIGN_OR_RETURN(copies.emplace_back(), time_copies());
      ASSIGN_OR_RETURN(commits.emplace_back(), time_commits());
    }
    ASSIGN_OR_RETURN(const double copy_us, median_us(std::move(copies)));
    ASSIGN_OR_RETURN(const double commit_us, median_us(std::move(commits)));
    RETURN_IF_ERROR(group_.barrier());
    return MoveTimes{slot_.size(), copy_us, commit_us};
  }

 private:
  Result<int64_t> time_copies() {
    kernels::wait(stream_);
    RETURN_IF_ERROR(group_.barrier());
    const auto start = std::chrono::steady_clock::now();
    RETURN_IF_ERROR(copies_->begin_boundary());
    for (int place = 0; place < kPlaces; ++place) {
      RETURN_IF_ERROR(copies_->send(slot_, (group_.rank() + 1) % group_.size(), place));
    }
    RETURN_IF_ERROR(copies_->end_boundary());
    RETURN_IF_ERROR(copies_->end_iteration());
    ++iterations_;
    while (copies_->num_done() < iterations_) std::this_thread::yield();
    const auto end = std::chrono::steady_clock::now();
    return std::chrono::duration_cast<std::chrono::nanoseconds>(end - start).count() / kPlaces;
  }

  Result<int64_t> time_commits() {
    RETURN_IF_ERROR(group_.barrier());  // the peer's copies are here
    const auto clock = kernels::StreamClock::create(stream_);
    RETURN_IF_ERROR(copies_->begin_boundary());
    clock->mark(stream_, 0);
    for (int place = 0; place < kPlaces; ++place) RETURN_IF_ERROR(copies_->commit(place, slot_));
    clock->mark(stream_, 0);
    RETURN_IF_ERROR(copies_->end_boundary());
    RETURN_IF_ERROR(copies_->end_iteration());
    ++iterations_;
    ASSIGN_OR_RETURN(const std::vector<kernels::Lap> laps, clock->laps(stream_));
    return std::llround(1e3 * laps.front().us / kPlaces);
  }

  Result<double> median_us(std::vector<int64_t> nanoseconds) {
    RETURN_IF_ERROR(group_.all_reduce_max(std::span<int64_t>(nanoseconds)));
    const auto middle = nanoseconds.begin() + std::ssize(nanoseconds) / 2;
    std::ranges::nth_element(nanoseconds, middle);
    return 1e-3 * static_cast<double>(*middle);
  }

  Stream& stream_;
  dist::Communicator& group_;
  const SlotBytes& slot_;
  std::unique_ptr<ExpertCopies> copies_;
  int64_t iterations_ = 0;
};

}  // namespace

Result<MoveTimes> time_moves(Stream& stream, dist::Communicator& group, const SlotBytes& slot) {
  CHECK(stream.is_cuda() && group.size() > 1);
  return MoveBench(stream, group, slot).run();
}

}  // namespace wideep::moe
