#include "engine/frontend.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace wideep::engine {

Frontend::Frontend(RequestQueue& queue, FrontendOptions options)
    : queue_(queue),
      options_(std::move(options)),
      loads_(static_cast<size_t>(options_.num_schedulers)) {
  CHECK(options_.num_schedulers >= 1 && options_.stream_interval >= 1);
}

Orders Frontend::collect() {
  Orders orders;
  orders.cancels = std::exchange(stop_matches_, {});
  while (true) {
    RequestQueue::News news = queue_.take(/*wait=*/active_.empty() && orders.empty());
    for (RequestQueue::Submission& submission : news.submissions) {
      start(std::move(submission), orders);
    }
    for (const RequestId id : news.cancels) {
      const auto request = active_.find(id);
      if (request == active_.end()) continue;
      end(request, FinishReason::kCancelled);
      orders.cancels.push_back(id);
    }
    orders.shutdown = news.closed && active_.empty();
    if (!orders.empty() || !active_.empty()) return orders;
  }
}

void Frontend::start(RequestQueue::Submission submission, Orders& orders) {
  GenerationRequest& request = submission.request;
  const RequestId id = submission.id;
  const Status status = check_request(request, options_.limits);
  if (!status.is_ok()) {
    submission.handler({.id = id, .finish = FinishReason::kError, .status = status});
    return;
  }
  SequenceSpec sequence{.id = id,
                        .prompt = std::move(request.prompt),
                        .max_new_tokens = 0,
                        .stop_token_ids = std::move(request.stop_token_ids),
                        .sampling = request.sampling};
  sequence.max_new_tokens =
      std::min(request.max_new_tokens,
               options_.limits.max_seq_len - static_cast<int>(sequence.prompt.size()));
  if (!request.ignore_eos) {
    sequence.stop_token_ids.insert(sequence.stop_token_ids.end(), options_.eos_token_ids.begin(),
                                   options_.eos_token_ids.end());
  }
  const int scheduler = choose_scheduler();
  const auto weight = static_cast<int64_t>(sequence.prompt.size()) + sequence.max_new_tokens;
  Load& load = loads_[static_cast<size_t>(scheduler)];
  load.requests += 1;
  load.tokens += weight;
  Active active{.handler = std::move(submission.handler),
                .detokenizer = options_.make_detokenizer ? options_.make_detokenizer() : nullptr,
                .stops = StopMatcher(std::move(request.stop_strings)),
                .scheduler = scheduler,
                .weight = weight};
  active.event.id = id;
  active_.emplace(id, std::move(active));
  orders.sequences.push_back({scheduler, std::move(sequence)});
}

int Frontend::choose_scheduler() const {
  const auto less = [](const Load& a, const Load& b) {
    return std::pair(a.requests, a.tokens) < std::pair(b.requests, b.tokens);
  };
  return static_cast<int>(std::ranges::min_element(loads_, less) - loads_.begin());
}

void Frontend::deliver(const TokenOutput& output) {
  const auto request = active_.find(output.id);
  if (request == active_.end()) return;
  Active& active = request->second;
  active.event.num_cached_tokens = output.num_cached_tokens;
  if (output.finish == FinishReason::kError) {
    return end(request, FinishReason::kError,
               Status::unavailable("the model's logits have no finite number: its weights, or the "
                                   "arithmetic, are at fault"));
  }
  active.event.token_ids.push_back(output.token);
  FinishReason finish = output.finish;
  if (active.detokenizer) {
    std::string text;
    if (finish != FinishReason::kStopToken) text = active.detokenizer->add(output.token);
    if (finish != FinishReason::kNone) text += active.detokenizer->finish();
    active.event.text += active.stops.add(text);
    if (active.stops.matched()) {
      if (finish == FinishReason::kNone) stop_matches_.push_back(output.id);
      finish = FinishReason::kStopString;
    }
  }
  if (finish != FinishReason::kNone) return end(request, finish);
  const auto pending = static_cast<int>(active.event.token_ids.size());
  if (active.shown && pending < options_.stream_interval) return;
  active.shown = true;
  active.handler(active.event);
  active.event.token_ids.clear();
  active.event.text.clear();
}

void Frontend::end(ActiveMap::iterator request, FinishReason reason, Status status) {
  // Out of the map before its handler runs, which may submit and cancel.
  Active active = std::move(active_.extract(request).mapped());
  Load& load = loads_[static_cast<size_t>(active.scheduler)];
  load.requests -= 1;
  load.tokens -= active.weight;
  active.event.finish = reason;
  active.event.status = std::move(status);
  active.event.text += active.stops.finish();
  active.handler(active.event);
}

void Frontend::fail(const Status& status) {
  while (!active_.empty()) end(active_.begin(), FinishReason::kError, status);
  queue_.fail(status);
}

}  // namespace wideep::engine
