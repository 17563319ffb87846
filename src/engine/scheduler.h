// Which tokens of which sequences run in the next iteration. Pure: no clock, no communication, no
// memory but its own bookkeeping, so ranks that make the same calls plan the same.
//
// Continuous batching, oldest first: every sequence that has one token to compute (decode), then
// prompts, cut into chunks where allowed, then new sequences, in the order of their arrival and
// never past one that does not fit yet. When pages run out the youngest sequence gives back its
// pages and waits: its generated tokens are kept, and computed again as part of its prompt.
//
// Why nobody starves and nothing locks up: the running sequences are always older than the waiting
// ones, pages are only ever taken from younger sequences, and check_request() has refused what does
// not fit an empty cache. So the oldest sequence computes at least a token in every iteration.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "engine/kv_cache.h"
#include "engine/request.h"

namespace wideep::engine {

struct SchedulerOptions {
  int max_batch_size = 0;  // sequences in an iteration
  int max_num_tokens = 0;  // tokens in an iteration, at least max_batch_size
  bool enable_chunked_prefill = false;
  KvCache::Options kv_cache;
};

// A sequence to be generated; its numbers have passed check_request().
struct SequenceSpec {
  RequestId id = 0;
  std::vector<int> prompt;
  int max_new_tokens = 0;                // as answer_limit() says
  std::vector<int> stop_token_ids = {};  // all that end it
  kernels::SamplingParams sampling = {};
};

// A sequence's part of an iteration: positions [first_position, first_position + tokens).
struct ScheduledSequence {
  RequestId id = 0;
  int first_position = 0;
  // kernels::id_of_sampled(r) for a token that is not known yet: the r-th that was wanted of the
  // iteration before.
  std::span<const int> token_ids;
  std::span<const int> pages;
  // The next token is wanted: its position is first_position + tokens.
  bool wants_token = false;
  kernels::SamplingParams sampling;
};

// Spans hold until the scheduler's next call that is not const.
struct Iteration {
  std::vector<PageCopy> copies;  // done before the batch runs
  std::vector<ScheduledSequence> sequences;
  int num_tokens = 0;
  int num_wanted = 0;  // sequences that want a token
};

// A token that was generated.
struct TokenOutput {
  RequestId id = 0;
  int token = 0;  // -1 with kError
  FinishReason finish = FinishReason::kNone;
  int num_cached_tokens = 0;  // of the prompt, taken from the cache at the first try
};

struct SchedulerStats {
  int64_t preemptions = 0;
  int64_t cached_tokens = 0;      // not computed, because their blocks were there
  int64_t recomputed_tokens = 0;  // given up by preemptions
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);

  void add(SequenceSpec spec);
  // Ends a sequence between two iterations; false where there is none of that id any more.
  bool cancel(RequestId id);

  // Plans an iteration; empty where there is nothing to do before one under way is complete.
  const Iteration& plan();
  // The planned iteration, which may be empty, is under way; behind at most one other.
  void begin();
  // The oldest iteration under way has ended. tokens [num_wanted]: the sampled ones, in the plan's
  // order; -1 where the logits were not finite. The outputs are in the same order, but for
  // sequences that have ended meanwhile.
  std::vector<TokenOutput> complete(std::span<const int> tokens);

  bool idle() const { return running_.empty() && waiting_.empty(); }
  int num_running() const { return static_cast<int>(running_.size()); }
  int num_waiting() const { return static_cast<int>(waiting_.size()); }
  const SchedulerStats& stats() const { return stats_; }
  const KvCache& kv_cache() const { return cache_; }

 private:
  struct Sequence {
    SequenceSpec spec;
    std::vector<int> tokens;  // prompt and answer
    int num_computed = 0;     // positions whose keys and values are in the cache
    int num_scheduled = 0;    // tokens of the planned iteration
    int num_cached_tokens = -1;
    PageTable table;
    bool waits_for_token = false;  // the last of `tokens` is a stand-in
    bool has_ended = false;

    int remaining() const { return static_cast<int>(tokens.size()) - num_computed; }
    bool has_all_tokens() const {
      return std::ssize(tokens) - std::ssize(spec.prompt) >= spec.max_new_tokens;
    }
  };
  using SequencePtr = std::shared_ptr<Sequence>;

  // A sequence's part of an iteration under way.
  struct Step {
    SequencePtr sequence;
    int num_computed = 0;  // after it
    bool wants_token = false;
  };

  void schedule_decodes();
  void schedule_prefills();
  void admit();
  bool start(SequencePtr& sequence);
  // Tokens of the sequence that the rest of the iteration's budget takes; 0 for none.
  int chunk_of(int remaining) const;
  void schedule(const SequencePtr& sequence, int num_tokens);
  // Takes the pages of the youngest sequence, which waits again.
  void preempt_youngest();
  // Puts the token in the place of its stand-in.
  FinishReason settle(Sequence& sequence, int position, int token);
  void end(Sequence& sequence);

  SchedulerOptions options_;
  KvCache cache_;
  // Both oldest first; every running sequence is older than every waiting one.
  std::vector<SequencePtr> running_;
  std::deque<SequencePtr> waiting_;
  Iteration iteration_;
  std::vector<SequencePtr> scheduled_;       // [iteration_.sequences]
  std::deque<std::vector<Step>> under_way_;  // iterations, the oldest first
  // Pages that were available when the oldest waiting sequence did not fit; -1: not tried yet.
  int refused_with_ = -1;
  SchedulerStats stats_;
};

}  // namespace wideep::engine
