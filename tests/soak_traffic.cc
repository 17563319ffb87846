#include "tests/soak_traffic.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace wideep {
namespace {

using engine::FinishReason;
using engine::GenerationEvent;
using engine::GenerationRequest;
using std::chrono::milliseconds;

constexpr int kShortestPhase = 2000;  // ms
constexpr int kLongestPhase = 8000;
constexpr int kLongestPause = 300;
constexpr double kPauseShare = 0.1;  // of the bursts
constexpr double kCancelShare = 0.1;
constexpr int kMostDomains = 3;  // of a phase

}  // namespace

Traffic::Traffic(TrafficOptions options) : options_(std::move(options)), random_(options_.seed) {
  CHECK(!options_.references.empty() && options_.most_in_flight >= 1);
}

void Traffic::drive(engine::RequestQueue& queue, Clock::time_point end) {
  while (goes_on(end)) {
    const auto length = kShortestPhase + random_.below(kLongestPhase - kShortestPhase);
    run_phase(queue, std::min(end, Clock::now() + milliseconds(length)));
  }
  queue.close();
}

// Bursts: up to a random number of requests in flight, then down to another.
void Traffic::run_phase(engine::RequestQueue& queue, Clock::time_point end) {
  const std::vector<const Reference*> prompts = draw_prompts();
  {
    const std::lock_guard lock(mutex_);
    ++counts_.phases;
  }
  while (goes_on(end)) {
    const auto most = static_cast<int>(random_.below(options_.most_in_flight)) + 1;
    int in_flight = 0;
    {
      const std::lock_guard lock(mutex_);
      in_flight = in_flight_;
    }
    for (; in_flight < most; ++in_flight) submit(queue, prompts);
    wait_for(static_cast<int>(random_.below(most)), end);
    if (random_.uniform() < kPauseShare) pause(end);
  }
}

void Traffic::submit(engine::RequestQueue& queue, std::span<const Reference* const> prompts) {
  const auto request = std::make_shared<Request>();
  request->reference = prompts[random_.below(prompts.size())];
  request->asked = static_cast<int>(random_.below(request->reference->answer.greedy.size())) + 1;
  if (random_.uniform() < kCancelShare) {
    request->cancel_after = static_cast<int>(random_.below(request->asked));
  }
  GenerationRequest asked;
  asked.prompt = request->reference->prompt;
  asked.max_new_tokens = request->asked;
  asked.ignore_eos = true;
  {
    const std::lock_guard lock(mutex_);
    ++in_flight_;
  }
  const engine::RequestId id = queue.submit(
      std::move(asked),
      [this, &queue, request](const GenerationEvent& event) { on_event(queue, *request, event); });
  if (request->cancel_after == 0) queue.cancel(id);
}

void Traffic::on_event(engine::RequestQueue& queue, Request& request,
                       const GenerationEvent& event) {
  const std::lock_guard lock(mutex_);
  Status status = take_tokens(request, event.token_ids);
  const bool has_ended = event.finish != FinishReason::kNone;
  if (has_ended) {
    --in_flight_;
    if (status.is_ok()) status = take_end(request, event);
  } else if (request.cancel_after > 0 && request.received >= request.cancel_after) {
    queue.cancel(event.id);
  }
  if (status_.is_ok()) status_ = std::move(status);
  if (has_ended || !status_.is_ok()) changed_.notify_all();
}

Status Traffic::take_tokens(Request& request, std::span<const int> tokens) {
  const engine::Evaluation& answer = request.reference->answer;
  for (const int token : tokens) {
    const int step = request.received++;
    ++counts_.tokens;
    // What follows where it went another way is another text.
    if (step >= request.asked || request.has_diverged || token == answer.greedy[step]) continue;
    const float margin = answer.greedy_margin[step];
    if (margin >= options_.margin) {
      return Status::aborted(
          fmt::format("wrong token: {}, step {}: {} instead of {}, whose logit leads by {:.4f}",
                      answer.name, step, token, answer.greedy[step], margin));
    }
    request.has_diverged = true;
    ++counts_.diverged;
    counts_.widest_margin = std::max(counts_.widest_margin, margin);
  }
  return Status::ok();
}

Status Traffic::take_end(const Request& request, const GenerationEvent& event) {
  if (event.finish == FinishReason::kError) return event.status;
  const bool is_cancelled = event.finish == FinishReason::kCancelled && request.cancel_after >= 0;
  const bool is_complete =
      event.finish == FinishReason::kLength && request.received == request.asked;
  if (!is_cancelled && !is_complete) {
    return Status::aborted(
        fmt::format("wrong end: {}: {} after {} of {} tokens", request.reference->answer.name,
                    engine::to_string(event.finish), request.received, request.asked));
  }
  ++(is_cancelled ? counts_.cancelled : counts_.answers);
  return Status::ok();
}

void Traffic::wait_for(int in_flight, Clock::time_point end) {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, end, [&] { return in_flight_ <= in_flight || !status_.is_ok(); });
}

void Traffic::pause(Clock::time_point end) {
  std::unique_lock lock(mutex_);
  const auto length = milliseconds(random_.below(kLongestPause));
  changed_.wait_until(lock, std::min(end, Clock::now() + length),
                      [this] { return !status_.is_ok(); });
}

bool Traffic::goes_on(Clock::time_point end) {
  const std::lock_guard lock(mutex_);
  return status_.is_ok() && Clock::now() < end;
}

// The prompts of a few domains.
std::vector<const Reference*> Traffic::draw_prompts() {
  std::vector<bool> is_drawn(static_cast<size_t>(options_.num_domains));
  const uint64_t count = random_.below(kMostDomains) + 1;
  for (uint64_t i = 0; i < count; ++i) is_drawn[random_.below(is_drawn.size())] = true;
  std::vector<const Reference*> prompts;
  for (const Reference& reference : options_.references) {
    if (is_drawn[static_cast<size_t>(reference.domain)]) prompts.push_back(&reference);
  }
  CHECK(!prompts.empty());
  return prompts;
}

}  // namespace wideep
