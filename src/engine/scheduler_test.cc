#include "engine/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <numeric>

#include "base/random.h"
#include "engine/hash_sequence_testing.h"
#include "kernels/sampling.h"

namespace wideep::engine {
namespace {

using ::testing::ElementsAre;

constexpr int kVocab = 50;

std::vector<int> iota(int count, int first = 0) {
  std::vector<int> values(static_cast<size_t>(count));
  std::iota(values.begin(), values.end(), first);
  return values;
}

SequenceSpec spec_of(RequestId id, std::vector<int> prompt, int max_new_tokens) {
  return {.id = id,
          .prompt = std::move(prompt),
          .max_new_tokens = max_new_tokens,
          .stop_token_ids = {},
          .sampling = {}};
}

SchedulerOptions options_of(int max_batch_size, int max_num_tokens, int num_pages,
                            int page_tokens) {
  return {.max_batch_size = max_batch_size,
          .max_num_tokens = max_num_tokens,
          .enable_chunked_prefill = true,
          .kv_cache = {.num_pages = num_pages, .page_tokens = page_tokens}};
}

// Ends the iteration that was planned.
std::vector<TokenOutput> finish(Scheduler& scheduler, const std::vector<int>& tokens) {
  scheduler.begin();
  return scheduler.complete(tokens);
}

// A scheduler and the hash model that it feeds. With `overlap` an iteration's tokens are known to
// the scheduler only after the next one has been planned.
class Simulation {
 public:
  explicit Simulation(const SchedulerOptions& options, bool overlap = false)
      : options_(options),
        overlap_(overlap),
        scheduler_(options),
        memory_(static_cast<size_t>(options.kv_cache.num_pages * options.kv_cache.page_tokens)) {}

  Scheduler& scheduler() { return scheduler_; }
  const std::map<RequestId, std::vector<int>>& answers() const { return answers_; }
  const std::map<RequestId, FinishReason>& reasons() const { return reasons_; }

  // Plans and runs an iteration, and completes it or the one before.
  void step() {
    const Iteration& iteration = scheduler_.plan();
    check(iteration);
    for (const PageCopy& copy : iteration.copies) {
      for (int i = 0; i < copy.num_tokens; ++i) entry(copy.to, i) = entry(copy.from, i);
    }
    std::vector<int> tokens;
    for (const ScheduledSequence& sequence : iteration.sequences) {
      std::vector<int> ids(sequence.token_ids.begin(), sequence.token_ids.end());
      for (int& id : ids) id = id < 0 ? under_way_.back().at(static_cast<size_t>(-1 - id)) : id;
      const int next = run_hash_sequence(memory_, options_.kv_cache.page_tokens, sequence.pages,
                                         sequence.first_position, ids, kVocab);
      if (sequence.wants_token) tokens.push_back(next);
    }
    const size_t left = overlap_ && !iteration.sequences.empty() ? 1 : 0;
    scheduler_.begin();
    under_way_.push_back(tokens);
    while (under_way_.size() > left) ASSERT_NO_FATAL_FAILURE(complete());
  }

  void run(int max_iterations) {
    for (int i = 0; i < max_iterations && !scheduler_.idle(); ++i) {
      ASSERT_NO_FATAL_FAILURE(step());
    }
    ASSERT_TRUE(scheduler_.idle()) << "not done in " << max_iterations << " iterations";
    EXPECT_EQ(scheduler_.kv_cache().num_available(), options_.kv_cache.num_pages);
  }

 private:
  uint64_t& entry(int page, int place) {
    return memory_[static_cast<size_t>(page) * options_.kv_cache.page_tokens + place];
  }

  void complete() {
    for (const TokenOutput& output : scheduler_.complete(under_way_.front())) {
      ASSERT_FALSE(reasons_.contains(output.id)) << "a token after the end";
      answers_[output.id].push_back(output.token);
      if (output.finish != FinishReason::kNone) reasons_[output.id] = output.finish;
    }
    under_way_.pop_front();
  }

  void check(const Iteration& iteration) {
    int tokens = 0;
    int wanted = 0;
    for (const ScheduledSequence& sequence : iteration.sequences) {
      tokens += static_cast<int>(sequence.token_ids.size());
      wanted += sequence.wants_token ? 1 : 0;
      ASSERT_FALSE(sequence.token_ids.empty());
      ASSERT_GE(static_cast<int>(sequence.pages.size()) * options_.kv_cache.page_tokens,
                sequence.first_position + static_cast<int>(sequence.token_ids.size()));
    }
    ASSERT_EQ(tokens, iteration.num_tokens);
    ASSERT_EQ(wanted, iteration.num_wanted);
    ASSERT_LE(tokens, options_.max_num_tokens);
    ASSERT_LE(static_cast<int>(iteration.sequences.size()), options_.max_batch_size);
    ASSERT_TRUE(tokens > 0 || scheduler_.idle() || !under_way_.empty());
  }

  SchedulerOptions options_;
  bool overlap_;
  Scheduler scheduler_;
  std::deque<std::vector<int>> under_way_;  // tokens of iterations, the oldest first
  std::vector<uint64_t> memory_;
  std::map<RequestId, std::vector<int>> answers_;
  std::map<RequestId, FinishReason> reasons_;
};

// Token counts of the sequences of an iteration.
std::vector<int> counts_of(const Iteration& iteration) {
  std::vector<int> counts;
  for (const ScheduledSequence& sequence : iteration.sequences) {
    counts.push_back(static_cast<int>(sequence.token_ids.size()));
  }
  return counts;
}

TEST(Scheduler, NothingToDoIsAnEmptyIteration) {
  Scheduler scheduler(options_of(4, 8, 4, 4));
  EXPECT_TRUE(scheduler.idle());
  EXPECT_EQ(scheduler.plan().num_tokens, 0);
  EXPECT_TRUE(finish(scheduler, {}).empty());
}

TEST(Scheduler, DecodesFirstThenChunksOfPrompts) {
  Simulation simulation(options_of(4, 8, 100, 4));
  Scheduler& scheduler = simulation.scheduler();
  scheduler.add(spec_of(0, iota(3), 5));
  scheduler.add(spec_of(1, iota(12, 10), 5));
  scheduler.add(spec_of(2, iota(2, 30), 5));
  EXPECT_THAT(counts_of(scheduler.plan()), ElementsAre(3, 5));  // 0 whole, a chunk of 1
  finish(scheduler, {7});
  const Iteration& second = scheduler.plan();
  EXPECT_THAT(counts_of(second), ElementsAre(1, 7));  // decode of 0, the rest of 1
  EXPECT_EQ(second.sequences[0].first_position, 3);
  EXPECT_EQ(second.sequences[1].first_position, 5);
  EXPECT_TRUE(second.sequences[1].wants_token);
  finish(scheduler, {7, 7});
  EXPECT_THAT(counts_of(scheduler.plan()), ElementsAre(1, 1, 2));
  finish(scheduler, {7, 7, 7});
}

TEST(Scheduler, WithoutChunksAPromptWaitsForRoom) {
  SchedulerOptions options = options_of(4, 8, 100, 4);
  options.enable_chunked_prefill = false;
  Scheduler scheduler(options);
  scheduler.add(spec_of(0, iota(3), 2));
  scheduler.add(spec_of(1, iota(8, 10), 2));
  scheduler.add(spec_of(2, iota(1, 30), 2));
  EXPECT_THAT(counts_of(scheduler.plan()), ElementsAre(3));  // 2 does not overtake 1
  finish(scheduler, {7});
  EXPECT_THAT(counts_of(scheduler.plan()), ElementsAre(1));
  EXPECT_EQ(finish(scheduler, {7})[0].finish, FinishReason::kLength);
  EXPECT_THAT(counts_of(scheduler.plan()), ElementsAre(8));
  finish(scheduler, {7});
}

TEST(Scheduler, PreemptsTheYoungestAndKeepsItsTokens) {
  Simulation simulation(options_of(4, 16, 4, 4));
  simulation.scheduler().add(spec_of(0, iota(6), 10));  // 15 stored tokens: all 4 pages
  simulation.scheduler().add(spec_of(1, iota(3, 20), 6));
  simulation.run(100);
  EXPECT_GE(simulation.scheduler().stats().preemptions, 1);
  EXPECT_EQ(simulation.answers().at(0), hash_answer(iota(6), 10, kVocab));
  EXPECT_EQ(simulation.answers().at(1), hash_answer(iota(3, 20), 6, kVocab));
}

TEST(Scheduler, CutsWhatPreemptionMadeTooLongForAnIteration) {
  // More than 9 tokens after its preemption, in iterations of 9, although prompts may not be cut.
  SchedulerOptions options = options_of(2, 9, 7, 4);
  options.enable_chunked_prefill = false;
  options.kv_cache.enable_block_reuse = false;
  Simulation simulation(options);
  simulation.scheduler().add(spec_of(0, iota(8), 20));
  simulation.scheduler().add(spec_of(1, iota(8, 20), 16));
  simulation.run(200);
  EXPECT_GE(simulation.scheduler().stats().recomputed_tokens, 10);
  EXPECT_EQ(simulation.answers().at(0), hash_answer(iota(8), 20, kVocab));
  EXPECT_EQ(simulation.answers().at(1), hash_answer(iota(8, 20), 16, kVocab));
}

TEST(Scheduler, StopTokensEndASequenceAndAreItsLast) {
  Simulation simulation(options_of(2, 16, 16, 4));
  const std::vector<int> free_running = hash_answer(iota(4), 20, kVocab);
  SequenceSpec spec = spec_of(0, iota(4), 20);
  spec.stop_token_ids = {free_running[5]};
  const std::vector<int> expected = hash_answer(iota(4), 20, kVocab, spec.stop_token_ids);
  ASSERT_LE(expected.size(), 6U);
  simulation.scheduler().add(std::move(spec));
  simulation.run(100);
  EXPECT_EQ(simulation.answers().at(0), expected);
  EXPECT_EQ(simulation.reasons().at(0), FinishReason::kStopToken);
}

TEST(Scheduler, LogitsThatAreNotFiniteEndTheirSequenceOnly) {
  Scheduler scheduler(options_of(4, 16, 16, 4));
  scheduler.add(spec_of(0, iota(2), 3));
  scheduler.add(spec_of(1, iota(2, 9), 3));
  scheduler.plan();
  const std::vector<TokenOutput> outputs = finish(scheduler, {-1, 5});
  ASSERT_EQ(outputs.size(), 2U);
  EXPECT_EQ(outputs[0].finish, FinishReason::kError);
  EXPECT_EQ(outputs[1].finish, FinishReason::kNone);
  EXPECT_EQ(scheduler.plan().sequences.size(), 1U);
  finish(scheduler, {5});
}

TEST(Scheduler, CancelsRunningAndWaitingSequences) {
  Simulation simulation(options_of(1, 16, 8, 4));
  Scheduler& scheduler = simulation.scheduler();
  for (int id = 0; id < 3; ++id) scheduler.add(spec_of(id, iota(5, 10 * id), 8));
  simulation.step();
  EXPECT_TRUE(scheduler.cancel(0));
  EXPECT_TRUE(scheduler.cancel(1));
  EXPECT_FALSE(scheduler.cancel(1));
  EXPECT_FALSE(scheduler.cancel(9));
  simulation.run(100);
  EXPECT_FALSE(simulation.reasons().contains(0));
  EXPECT_FALSE(simulation.reasons().contains(1));
  EXPECT_EQ(simulation.answers().at(2), hash_answer(iota(5, 20), 8, kVocab));
}

TEST(Scheduler, UsesTheBlocksOfACommonPrefix) {
  Simulation simulation(options_of(4, 64, 32, 4));
  simulation.scheduler().add(spec_of(0, iota(18), 3));
  simulation.run(100);
  std::vector<int> other = iota(14);
  other.push_back(40);
  simulation.scheduler().add(spec_of(1, other, 3));
  simulation.run(100);
  // Three blocks of four, and two tokens of the fourth are copied.
  EXPECT_EQ(simulation.scheduler().stats().cached_tokens, 14);
  EXPECT_EQ(simulation.answers().at(1), hash_answer(other, 3, kVocab));
  // The same prompt once more: its last token is computed again.
  simulation.scheduler().add(spec_of(2, other, 3));
  simulation.run(100);
  EXPECT_EQ(simulation.scheduler().stats().cached_tokens, 14 + 14);
  EXPECT_EQ(simulation.answers().at(2), simulation.answers().at(1));
}

TEST(Scheduler, PlansOnWithTokensThatItDoesNotKnow) {
  Scheduler scheduler(options_of(2, 16, 16, 4));
  SequenceSpec stopping = spec_of(0, iota(3), 9);
  stopping.stop_token_ids = {8};
  scheduler.add(stopping);
  scheduler.add(spec_of(1, iota(2, 9), 2));
  scheduler.add(spec_of(2, iota(2, 20), 1));
  scheduler.plan();
  scheduler.begin();
  const Iteration& second = scheduler.plan();
  EXPECT_THAT(second.sequences[0].token_ids, ElementsAre(kernels::id_of_sampled(0)));
  EXPECT_THAT(second.sequences[1].token_ids, ElementsAre(kernels::id_of_sampled(1)));
  EXPECT_EQ(second.sequences[1].first_position, 2);
  scheduler.begin();
  EXPECT_EQ(scheduler.complete(std::vector{8, 5})[0].finish, FinishReason::kStopToken);
  // 0 has ended, and 1 has all its tokens under way: there is room for 2.
  EXPECT_THAT(counts_of(scheduler.plan()), ElementsAre(2));
  scheduler.begin();
  const std::vector<TokenOutput> outputs = scheduler.complete(std::vector{7, 6});
  ASSERT_EQ(outputs.size(), 1U);  // not of 0, after its end
  EXPECT_EQ(outputs[0].id, 1);
  EXPECT_EQ(outputs[0].token, 6);
  EXPECT_EQ(outputs[0].finish, FinishReason::kLength);
  EXPECT_EQ(scheduler.plan().num_tokens, 0);
  EXPECT_EQ(scheduler.complete(std::vector{4})[0].finish, FinishReason::kLength);
  EXPECT_TRUE(scheduler.idle());
  EXPECT_EQ(scheduler.kv_cache().num_available(), 16);
}

class SchedulerLoads : public ::testing::TestWithParam<bool> {};

// Random loads on random small engines: every sequence ends with the tokens that it has alone.
TEST_P(SchedulerLoads, OnAnyPoolGiveTheTokensOfOneAtATime) {
  SchedulerStats sum;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    Random random(seed, {0});
    const auto between = [&](int low, int high) {
      return low + static_cast<int>(random.below(uint64_t{1} + high - low));
    };
    SchedulerOptions options = options_of(between(1, 8), 0, between(3, 24), 1 << between(0, 3));
    options.max_num_tokens = options.max_batch_size + between(0, 24);
    options.enable_chunked_prefill = random.below(2) == 0;
    options.kv_cache.enable_block_reuse = random.below(3) > 0;
    options.kv_cache.enable_partial_reuse = random.below(2) == 0;
    Simulation simulation(options, /*overlap=*/GetParam());
    const int room = options.kv_cache.num_pages * options.kv_cache.page_tokens;
    std::map<RequestId, std::vector<int>> expected;
    const int num_requests = between(1, 24);
    for (int id = 0; id < num_requests; ++id) {
      const int longest =
          std::min({room, 40, options.enable_chunked_prefill ? 40 : options.max_num_tokens});
      std::vector<int> prompt = iota(between(1, longest));  // prefixes are common
      for (int i = between(0, 3); i > 0; --i) {
        prompt[static_cast<size_t>(random.below(prompt.size()))] = between(0, kVocab - 1);
      }
      const int limit = room + 1 - static_cast<int>(prompt.size());
      SequenceSpec spec = spec_of(id, prompt, between(1, std::min(limit, 30)));
      for (int i = between(0, 2); i > 0; --i) spec.stop_token_ids.push_back(between(0, kVocab - 1));
      expected[id] = hash_answer(prompt, spec.max_new_tokens, kVocab, spec.stop_token_ids);
      simulation.scheduler().add(std::move(spec));
      for (int i = between(0, 3); i > 0; --i) ASSERT_NO_FATAL_FAILURE(simulation.step());
    }
    ASSERT_NO_FATAL_FAILURE(simulation.run(20000)) << "seed " << seed;
    ASSERT_EQ(simulation.answers(), expected) << "seed " << seed;
    sum.preemptions += simulation.scheduler().stats().preemptions;
    sum.cached_tokens += simulation.scheduler().stats().cached_tokens;
  }
  // The loads were what the test is about.
  EXPECT_GT(sum.preemptions, 100);
  EXPECT_GT(sum.cached_tokens, 1000);
}

INSTANTIATE_TEST_SUITE_P(All, SchedulerLoads, ::testing::Bool(), [](const auto& info) {
  return info.param ? "overlapping" : "one_by_one";
});

}  // namespace
}  // namespace wideep::engine
