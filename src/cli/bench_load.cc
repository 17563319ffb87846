#include "cli/bench_load.h"

#include <algorithm>
#include <utility>

namespace wideep::cli {

using engine::FinishReason;
using engine::GenerationEvent;

BenchLoad::BenchLoad(engine::RequestQueue& queue, std::vector<engine::GenerationRequest> requests,
                     int concurrency, std::function<void()> on_answer)
    : queue_(queue),
      requests_(std::move(requests)),
      concurrency_(concurrency),
      on_answer_(std::move(on_answer)),
      in_flight_(requests_.size()) {}

void BenchLoad::start() {
  const size_t first = concurrency_ > 0 ? static_cast<size_t>(concurrency_) : requests_.size();
  for (size_t i = 0; i < std::min(first, requests_.size()); ++i) submit_next();
  if (requests_.empty()) queue_.close();
}

void BenchLoad::submit_next() {
  if (next_ == requests_.size()) return;
  const size_t index = next_++;
  InFlight& request = in_flight_[index];
  request.record.input_tokens = static_cast<int64_t>(requests_[index].prompt.size());
  request.submitted = Clock::now();
  queue_.submit(std::move(requests_[index]),
                [this, index](const GenerationEvent& event) { on_event(index, event); });
  if (next_ == requests_.size()) queue_.close();
}

void BenchLoad::on_event(size_t index, const GenerationEvent& event) {
  InFlight& request = in_flight_[index];
  const double seconds = std::chrono::duration<double>(Clock::now() - request.submitted).count();
  RequestRecord& record = request.record;
  if (record.output_tokens == 0) record.first_token = seconds;
  record.output_tokens += static_cast<int64_t>(event.token_ids.size());
  record.last_token = seconds;
  if (event.finish == FinishReason::kNone) return;
  if (event.finish != FinishReason::kError) {
    records_.push_back(record);
  } else if (status_.is_ok()) {
    status_ = event.status;
  }
  if (on_answer_) on_answer_();
  submit_next();
}

}  // namespace wideep::cli
