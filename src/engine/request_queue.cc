#include "engine/request_queue.h"

#include <utility>

namespace wideep::engine {
namespace {

void refuse(RequestId id, const EventHandler& handler, const Status& status) {
  handler({.id = id, .finish = FinishReason::kError, .status = status});
}

}  // namespace

RequestId RequestQueue::submit(GenerationRequest request, EventHandler handler) {
  Status status;
  RequestId id = 0;
  {
    const std::lock_guard lock(mutex_);
    id = next_id_++;
    if (!news_.closed) {
      news_.submissions.push_back({id, std::move(request), std::move(handler)});
      changed_.notify_one();
      return id;
    }
    status = failure_.is_ok() ? Status::unavailable("the engine takes no more requests") : failure_;
  }
  refuse(id, handler, status);
  return id;
}

void RequestQueue::cancel(RequestId id) {
  const std::lock_guard lock(mutex_);
  news_.cancels.push_back(id);
  changed_.notify_one();
}

void RequestQueue::close() {
  const std::lock_guard lock(mutex_);
  news_.closed = true;
  changed_.notify_one();
}

RequestQueue::News RequestQueue::take(bool wait) {
  std::unique_lock lock(mutex_);
  if (wait) {
    changed_.wait(lock, [this] {
      return news_.closed || !news_.submissions.empty() || !news_.cancels.empty();
    });
  }
  News taken = std::exchange(news_, {});
  news_.closed = taken.closed;
  return taken;
}

void RequestQueue::fail(const Status& status) {
  News left;
  {
    const std::lock_guard lock(mutex_);
    left = std::exchange(news_, {});
    news_.closed = true;
    failure_ = status;
  }
  for (const Submission& submission : left.submissions) {
    refuse(submission.id, submission.handler, status);
  }
}

}  // namespace wideep::engine
