// The load of a benchmark: keeps a number of requests in flight and notes when tokens come.
#pragma once

#include <chrono>
#include <functional>
#include <vector>

#include "base/status.h"
#include "cli/bench_report.h"
#include "engine/request_queue.h"

namespace wideep::cli {

class BenchLoad {
 public:
  // At most `concurrency` requests at a time, 0: all at once. `on_answer` after each of them. The
  // load outlives the engine's run over `queue`.
  BenchLoad(engine::RequestQueue& queue, std::vector<engine::GenerationRequest> requests,
            int concurrency, std::function<void()> on_answer = {});
  BenchLoad(const BenchLoad&) = delete;

  // Submits the first requests; the others follow as answers come, then the queue is closed.
  void start();

  // Of the requests that were answered, in the order of their ends.
  const std::vector<RequestRecord>& records() const { return records_; }
  // The first request's error.
  const Status& status() const { return status_; }

 private:
  using Clock = std::chrono::steady_clock;

  struct InFlight {
    Clock::time_point submitted;
    RequestRecord record;
  };

  // The next request, or the end of the queue.
  void submit_next();
  void on_event(size_t index, const engine::GenerationEvent& event);

  engine::RequestQueue& queue_;
  std::vector<engine::GenerationRequest> requests_;
  int concurrency_;
  std::function<void()> on_answer_;
  size_t next_ = 0;
  std::vector<InFlight> in_flight_;  // [requests]
  std::vector<RequestRecord> records_;
  Status status_;
};

}  // namespace wideep::cli
