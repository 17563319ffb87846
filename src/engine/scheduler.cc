#include "engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "kernels/sampling.h"

namespace wideep::engine {

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options), cache_(options.kv_cache) {
  CHECK(options.max_batch_size >= 1 && options.max_num_tokens >= options.max_batch_size);
}

void Scheduler::add(SequenceSpec spec) {
  CHECK(scheduled_.empty() && !spec.prompt.empty() && spec.max_new_tokens >= 1);
  const int stored = static_cast<int>(spec.prompt.size()) + spec.max_new_tokens - 1;
  CHECK_LE(cache_.pages_for(stored), cache_.num_pages());
  auto sequence = std::make_shared<Sequence>();
  sequence->tokens = spec.prompt;
  sequence->spec = std::move(spec);
  waiting_.push_back(std::move(sequence));
}

bool Scheduler::cancel(RequestId id) {
  CHECK(scheduled_.empty());
  const auto has_id = [id](const SequencePtr& sequence) { return sequence->spec.id == id; };
  const auto running = std::ranges::find_if(running_, has_id);
  if (running != running_.end()) {
    end(**running);
    running_.erase(running);
    return true;
  }
  const auto waiting = std::ranges::find_if(waiting_, has_id);
  if (waiting == waiting_.end()) return false;
  if (waiting == waiting_.begin()) refused_with_ = -1;
  end(**waiting);
  waiting_.erase(waiting);
  return true;
}

const Iteration& Scheduler::plan() {
  CHECK(scheduled_.empty() && under_way_.size() < 2);
  iteration_.copies.clear();
  iteration_.sequences.clear();
  iteration_.num_tokens = 0;
  iteration_.num_wanted = 0;
  schedule_decodes();
  schedule_prefills();
  admit();
  for (const SequencePtr& sequence : scheduled_) {
    const int begin = sequence->num_computed;
    const int count = sequence->num_scheduled;
    const bool wants_token = count == sequence->remaining();
    iteration_.num_wanted += wants_token ? 1 : 0;
    iteration_.sequences.push_back(
        {.id = sequence->spec.id,
         .first_position = begin,
         .token_ids = std::span<const int>(sequence->tokens)
                          .subspan(static_cast<size_t>(begin), static_cast<size_t>(count)),
         .pages = sequence->table.pages,
         .wants_token = wants_token,
         .sampling = sequence->spec.sampling});
  }
  CHECK(!scheduled_.empty() || idle() || !under_way_.empty());
  return iteration_;
}

void Scheduler::schedule_decodes() {
  for (size_t i = 0; i < running_.size(); ++i) {
    const SequencePtr sequence = running_[i];
    if (sequence->remaining() != 1 || sequence->has_all_tokens()) continue;
    while (!cache_.extend(sequence->num_computed + 1, sequence->table)) {
      const SequencePtr youngest = running_.back();
      if (youngest->has_all_tokens()) return;  // its pages come back with its last token
      preempt_youngest();
      if (youngest == sequence) return;  // waits for the older ones, which all have their token
    }
    schedule(sequence, 1);
  }
}

void Scheduler::schedule_prefills() {
  // Only the youngest can be within its prompt: the next sequence starts when it has the budget's
  // rest. Older ones that have not come as far keep their pages.
  for (const SequencePtr& sequence : running_) {
    const int remaining = sequence->remaining();
    if (remaining == 1 || sequence->num_scheduled > 0) continue;
    // What has been cut once is cut again; the pages at hand may take less than the budget.
    const int64_t pages =
        static_cast<int64_t>(sequence->table.pages.size()) + cache_.num_available();
    const int64_t room = pages * options_.kv_cache.page_tokens - sequence->num_computed;
    const int budget = options_.max_num_tokens - iteration_.num_tokens;
    const auto chunk = static_cast<int>(std::min<int64_t>({remaining, budget, room}));
    if (chunk == 0) return;
    CHECK(cache_.extend(sequence->num_computed + chunk, sequence->table));
    schedule(sequence, chunk);
  }
}

void Scheduler::admit() {
  auto going_on = std::ranges::count_if(
      running_, [](const SequencePtr& sequence) { return !sequence->has_all_tokens(); });
  for (; !waiting_.empty() && going_on < options_.max_batch_size; ++going_on) {
    // A sequence within its prompt has used up the budget or the pages.
    if (!running_.empty()) {
      const Sequence& last = *running_.back();
      if (!last.has_all_tokens() && last.num_scheduled < last.remaining()) return;
    }
    if (waiting_.front()->waits_for_token) return;
    // Trying again makes no sense before pages have come back.
    if (!running_.empty() && refused_with_ >= cache_.num_available()) return;
    if (!start(waiting_.front())) return;
    waiting_.pop_front();
    refused_with_ = -1;
  }
}

bool Scheduler::start(SequencePtr& sequence) {
  const std::span<const int> tokens(sequence->tokens);
  if (chunk_of(1) == 0) return false;
  const size_t num_copies = iteration_.copies.size();
  // The last token is computed in any case: its logits are wanted.
  const int cached =
      cache_.take_prefix(tokens.first(tokens.size() - 1), sequence->table, iteration_.copies);
  const int chunk = chunk_of(static_cast<int>(tokens.size()) - cached);
  // All of the prompt must find room, and a page more for each of the others, or the sequence would
  // soon be in their way.
  const int missing = cache_.pages_for(static_cast<int>(tokens.size())) -
                      static_cast<int>(sequence->table.pages.size());
  const bool fits = missing + num_running() <= cache_.num_available() || running_.empty();
  if (chunk == 0 || !fits) {
    cache_.release(sequence->table);
    if (!fits) refused_with_ = cache_.num_available();
    iteration_.copies.resize(num_copies);
    return false;
  }
  CHECK(cache_.extend(cached + chunk, sequence->table));
  sequence->num_computed = cached;
  stats_.cached_tokens += cached;
  if (sequence->num_cached_tokens < 0) sequence->num_cached_tokens = cached;
  schedule(sequence, chunk);
  running_.push_back(std::move(sequence));
  return true;
}

int Scheduler::chunk_of(int remaining) const {
  const int budget = options_.max_num_tokens - iteration_.num_tokens;
  if (remaining <= budget) return remaining;
  // What was generated before a preemption may have made a sequence too long for any iteration:
  // that is cut in any case.
  return options_.enable_chunked_prefill || remaining > options_.max_num_tokens ? budget : 0;
}

void Scheduler::schedule(const SequencePtr& sequence, int num_tokens) {
  sequence->num_scheduled = num_tokens;
  iteration_.num_tokens += num_tokens;
  scheduled_.push_back(sequence);
}

void Scheduler::preempt_youngest() {
  SequencePtr youngest = std::move(running_.back());
  running_.pop_back();
  CHECK(youngest->num_scheduled == 0);
  ++stats_.preemptions;
  stats_.recomputed_tokens += youngest->num_computed;
  cache_.release(youngest->table);
  youngest->num_computed = 0;
  waiting_.push_front(std::move(youngest));
  refused_with_ = -1;
}

void Scheduler::begin() {
  std::vector<Step> steps;
  int row = 0;
  for (SequencePtr& sequence : scheduled_) {
    const bool wants_token = sequence->num_scheduled == sequence->remaining();
    sequence->num_computed += std::exchange(sequence->num_scheduled, 0);
    if (wants_token) {
      sequence->tokens.push_back(kernels::id_of_sampled(row++));
      sequence->waits_for_token = true;
    }
    const int num_computed = sequence->num_computed;
    steps.push_back({std::move(sequence), num_computed, wants_token});
  }
  scheduled_.clear();
  under_way_.push_back(std::move(steps));
}

std::vector<TokenOutput> Scheduler::complete(std::span<const int> tokens) {
  CHECK(scheduled_.empty() && !under_way_.empty());
  const std::vector<Step> steps = std::move(under_way_.front());
  under_way_.pop_front();
  CHECK_EQ(std::ranges::count_if(steps, &Step::wants_token), std::ssize(tokens));
  std::vector<TokenOutput> outputs;
  size_t next = 0;
  for (const Step& step : steps) {
    Sequence& sequence = *step.sequence;
    const int token = step.wants_token ? tokens[next++] : 0;
    if (sequence.has_ended) continue;
    // But for one that was preempted meanwhile.
    if (sequence.num_computed >= step.num_computed) {
      cache_.register_blocks(sequence.tokens, step.num_computed, sequence.table);
    }
    if (!step.wants_token) continue;
    outputs.push_back({.id = sequence.spec.id,
                       .token = token,
                       .finish = settle(sequence, step.num_computed, token),
                       .num_cached_tokens = sequence.num_cached_tokens});
    if (outputs.back().finish != FinishReason::kNone) end(sequence);
  }
  const auto has_ended = [](const SequencePtr& sequence) { return sequence->has_ended; };
  std::erase_if(running_, has_ended);
  if (std::erase_if(waiting_, has_ended) > 0) refused_with_ = -1;
  return outputs;
}

FinishReason Scheduler::settle(Sequence& sequence, int position, int token) {
  sequence.tokens[position] = token;
  const int num_tokens = position + 1;
  sequence.waits_for_token = num_tokens < std::ssize(sequence.tokens);
  const SequenceSpec& spec = sequence.spec;
  if (token < 0) return FinishReason::kError;
  if (std::ranges::find(spec.stop_token_ids, token) != spec.stop_token_ids.end()) {
    return FinishReason::kStopToken;
  }
  const auto generated = num_tokens - std::ssize(spec.prompt);
  return generated >= spec.max_new_tokens ? FinishReason::kLength : FinishReason::kNone;
}

void Scheduler::end(Sequence& sequence) {
  cache_.release(sequence.table);
  sequence.has_ended = true;
}

}  // namespace wideep::engine
