// Random traffic of known answers for tests/soak.cc: prompts of several domains, whose mix changes
// from phase to phase, answers of random length, cancels and pauses. Every token is compared as it
// comes.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "engine/evaluation.h"
#include "engine/request_queue.h"

namespace wideep {

// A prompt and how it goes on, from one rank.
struct Reference {
  int domain = 0;
  std::vector<int> prompt;
  engine::Evaluation answer;
};

struct TrafficOptions {
  std::vector<Reference> references;  // of at least one token each, all with as many
  int num_domains = 1;
  int most_in_flight = 1;
  // An answer may go another way where the best two logits of the reference are closer than this,
  // once; 0: never.
  float margin = 0;
  uint64_t seed = 0;
};

struct TrafficCounts {
  int64_t phases = 0;
  int64_t answers = 0;
  int64_t tokens = 0;
  int64_t cancelled = 0;
  int64_t diverged = 0;     // answers that went another way where they may
  float widest_margin = 0;  // of them
};

class Traffic {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Traffic(TrafficOptions options);
  Traffic(const Traffic&) = delete;

  // Submits requests until `end`, or until one is answered wrongly, then closes the queue. For a
  // thread beside the engine's.
  void drive(engine::RequestQueue& queue, Clock::time_point end);

  // The first request that went wrong. This and the counts: after the engine's run.
  const Status& status() const { return status_; }
  const TrafficCounts& counts() const { return counts_; }

 private:
  struct Request {
    const Reference* reference = nullptr;
    int asked = 0;          // tokens
    int cancel_after = -1;  // tokens; -1: never
    int received = 0;
    bool has_diverged = false;
  };

  void run_phase(engine::RequestQueue& queue, Clock::time_point end);
  void submit(engine::RequestQueue& queue, std::span<const Reference* const> prompts);
  void on_event(engine::RequestQueue& queue, Request& request,
                const engine::GenerationEvent& event);
  Status take_tokens(Request& request, std::span<const int> tokens);
  Status take_end(const Request& request, const engine::GenerationEvent& event);
  // Until as few requests are in flight, or one went wrong.
  void wait_for(int in_flight, Clock::time_point end);
  void pause(Clock::time_point end);
  bool goes_on(Clock::time_point end);
  std::vector<const Reference*> draw_prompts();

  const TrafficOptions options_;
  Random random_;  // of the driving thread

  std::mutex mutex_;
  std::condition_variable changed_;
  int in_flight_ = 0;
  Status status_;
  TrafficCounts counts_;
};

}  // namespace wideep
