// Where requests wait for an engine: submitted from any thread, taken by rank 0's.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <vector>

#include "base/status.h"
#include "engine/request.h"

namespace wideep::engine {

// Called on the engine's thread, or on the submitting one where the queue is closed; must be quick
// and must not throw. May submit and cancel.
using EventHandler = std::function<void(const GenerationEvent&)>;

class RequestQueue {
 public:
  // Ids count from 0. After close() or a failure the handler has its one event before this returns.
  RequestId submit(GenerationRequest request, EventHandler handler);
  // Ends a request with kCancelled, wherever it is; nothing happens where it has ended.
  void cancel(RequestId id);
  // No more requests: the engine's run() returns when all are answered.
  void close();

  // The rest is the engine's.
  struct Submission {
    RequestId id = 0;
    GenerationRequest request;
    EventHandler handler;
  };
  struct News {
    std::vector<Submission> submissions;
    std::vector<RequestId> cancels;  // of submissions up to now
    bool closed = false;
  };
  // What has come since the last call. `wait`: sleeps until there is some, or the queue is closed.
  News take(bool wait);
  // Closes the queue for good: whatever is or will be submitted ends with this error.
  void fail(const Status& status);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  RequestId next_id_ = 0;
  News news_;
  Status failure_;
};

}  // namespace wideep::engine
