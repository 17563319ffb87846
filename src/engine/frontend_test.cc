#include "engine/frontend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace wideep::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Token t is the letter 'a' + t; 25 is a character that is never completed.
class Letters : public Detokenizer {
 public:
  std::string add(int token) override {
    if (token == 25) {
      open_ = true;
      return "";
    }
    return std::string(1, static_cast<char>('a' + token));
  }
  std::string finish() override { return open_ ? "?" : ""; }

 private:
  bool open_ = false;
};

FrontendOptions options_of(int num_schedulers = 1) {
  FrontendOptions options;
  options.limits = {.vocab_size = 26,
                    .max_seq_len = 32,
                    .max_num_tokens = 32,
                    .enable_chunked_prefill = true,
                    .num_pages = 4,
                    .page_tokens = 8,
                    .has_tokenizer = true};
  options.eos_token_ids = {24};
  options.num_schedulers = num_schedulers;
  options.make_detokenizer = [] { return std::make_unique<Letters>(); };
  return options;
}

// Keeps the events of a request.
struct Recorder {
  std::vector<GenerationEvent> events;
  std::string text;

  EventHandler handler() {
    return [this](const GenerationEvent& event) {
      events.push_back(event);
      text += event.text;
    };
  }
  FinishReason finish() const {
    return events.empty() ? FinishReason::kNone : events.back().finish;
  }
};

TokenOutput token_of(RequestId id, int token, FinishReason finish = FinishReason::kNone) {
  return {.id = id, .token = token, .finish = finish, .num_cached_tokens = 0};
}

GenerationRequest request_of(int max_new_tokens = 8) {
  GenerationRequest request;
  request.prompt = {1, 2};
  request.max_new_tokens = max_new_tokens;
  return request;
}

TEST(Frontend, OrdersSequencesAndShowsTheirTokens) {
  RequestQueue queue;
  Frontend frontend(queue, options_of());
  Recorder recorder;
  GenerationRequest request = request_of(1000);
  request.stop_token_ids = {3};
  const RequestId id = queue.submit(request, recorder.handler());
  const Orders orders = frontend.collect();
  ASSERT_EQ(orders.sequences.size(), 1U);
  EXPECT_EQ(orders.sequences[0].sequence.max_new_tokens, 30);  // max_seq_len
  EXPECT_THAT(orders.sequences[0].sequence.stop_token_ids, ElementsAre(3, 24));
  frontend.deliver(token_of(id, 0));
  frontend.deliver(token_of(id, 1));
  frontend.deliver(token_of(id, 24, FinishReason::kStopToken));
  ASSERT_EQ(recorder.events.size(), 3U);
  EXPECT_THAT(recorder.events[1].token_ids, ElementsAre(1));
  EXPECT_THAT(recorder.events[2].token_ids, ElementsAre(24));
  EXPECT_EQ(recorder.text, "ab");  // a stop token is no text
  EXPECT_EQ(recorder.finish(), FinishReason::kStopToken);
  EXPECT_EQ(frontend.num_active(), 0);
  queue.close();
  EXPECT_TRUE(frontend.collect().shutdown);
}

TEST(Frontend, IgnoresEndOfSequenceWhereAsked) {
  RequestQueue queue;
  Frontend frontend(queue, options_of());
  Recorder recorder;
  GenerationRequest request = request_of();
  request.ignore_eos = true;
  queue.submit(request, recorder.handler());
  EXPECT_THAT(frontend.collect().sequences[0].sequence.stop_token_ids, IsEmpty());
}

TEST(Frontend, BadRequestsEndAloneAndAtOnce) {
  RequestQueue queue;
  Frontend frontend(queue, options_of());
  Recorder bad;
  Recorder good;
  queue.submit({}, bad.handler());
  queue.submit(request_of(), good.handler());
  EXPECT_EQ(frontend.collect().sequences.size(), 1U);
  EXPECT_EQ(bad.finish(), FinishReason::kError);
  EXPECT_EQ(bad.events[0].status.code(), StatusCode::kInvalidInput);
  EXPECT_THAT(good.events, IsEmpty());
}

TEST(Frontend, AStopStringMaySpanTokens) {
  RequestQueue queue;
  Frontend frontend(queue, options_of());
  Recorder recorder;
  GenerationRequest request = request_of();
  request.stop_strings = {"cd"};
  const RequestId id = queue.submit(request, recorder.handler());
  frontend.collect();
  for (const int token : {0, 2, 2}) frontend.deliver(token_of(id, token));
  EXPECT_EQ(recorder.text, "ac");  // the second c could begin the stop string
  frontend.deliver(token_of(id, 3));
  frontend.deliver(token_of(id, 4));  // was generated before the schedulers knew
  EXPECT_EQ(recorder.text, "ac");
  EXPECT_EQ(recorder.finish(), FinishReason::kStopString);
  ASSERT_EQ(recorder.events.size(), 4U);
  EXPECT_THAT(frontend.collect().cancels, ElementsAre(id));
}

TEST(Frontend, AStopStringInTheLastTokenNeedsNoCancel) {
  RequestQueue queue;
  Frontend frontend(queue, options_of());
  Recorder recorder;
  GenerationRequest request = request_of();
  request.stop_strings = {"d"};
  const RequestId id = queue.submit(request, recorder.handler());
  frontend.collect();
  frontend.deliver(token_of(id, 3, FinishReason::kLength));
  EXPECT_EQ(recorder.finish(), FinishReason::kStopString);
  queue.close();
  EXPECT_THAT(frontend.collect().cancels, IsEmpty());
}

TEST(Frontend, TheEndShowsWhatWasHeldBack) {
  RequestQueue queue;
  Frontend frontend(queue, options_of());
  Recorder recorder;
  GenerationRequest request = request_of();
  request.stop_strings = {"cd"};
  const RequestId id = queue.submit(request, recorder.handler());
  frontend.collect();
  frontend.deliver(token_of(id, 25));
  frontend.deliver(token_of(id, 2, FinishReason::kLength));
  EXPECT_EQ(recorder.text, "c?");
  EXPECT_EQ(recorder.finish(), FinishReason::kLength);
}

TEST(Frontend, CancelledRequestsEndOnce) {
  RequestQueue queue;
  Frontend frontend(queue, options_of());
  Recorder recorder;
  const RequestId id = queue.submit(request_of(), recorder.handler());
  frontend.collect();
  queue.cancel(id);
  queue.cancel(id);
  queue.cancel(77);
  EXPECT_THAT(frontend.collect().cancels, ElementsAre(id));
  frontend.deliver(token_of(id, 1));
  ASSERT_EQ(recorder.events.size(), 1U);
  EXPECT_EQ(recorder.finish(), FinishReason::kCancelled);
}

TEST(Frontend, TheFirstTokenComesAtOnceAndThenAnInterval) {
  RequestQueue queue;
  FrontendOptions options = options_of();
  options.stream_interval = 3;
  Frontend frontend(queue, options);
  Recorder recorder;
  const RequestId id = queue.submit(request_of(), recorder.handler());
  frontend.collect();
  for (int token = 0; token < 6; ++token) frontend.deliver(token_of(id, token));
  frontend.deliver(token_of(id, 6, FinishReason::kLength));
  ASSERT_EQ(recorder.events.size(), 3U);
  EXPECT_THAT(recorder.events[0].token_ids, ElementsAre(0));
  EXPECT_THAT(recorder.events[1].token_ids, ElementsAre(1, 2, 3));
  EXPECT_THAT(recorder.events[2].token_ids, ElementsAre(4, 5, 6));
  EXPECT_EQ(recorder.text, "abcdefg");
}

TEST(Frontend, GivesRequestsToTheLeastLoadedScheduler) {
  RequestQueue queue;
  Frontend frontend(queue, options_of(3));
  Recorder recorder;
  for (const int tokens : {8, 2, 4, 1}) queue.submit(request_of(tokens), recorder.handler());
  std::vector<int> schedulers;
  for (const Assignment& each : frontend.collect().sequences) schedulers.push_back(each.scheduler);
  EXPECT_THAT(schedulers, ElementsAre(0, 1, 2, 1));  // all have one; 1 has the fewest tokens
  frontend.deliver(token_of(0, 1, FinishReason::kLength));
  queue.submit(request_of(), recorder.handler());
  EXPECT_EQ(frontend.collect().sequences[0].scheduler, 0);
}

TEST(Frontend, HandlersMaySubmit) {
  RequestQueue queue;
  Frontend frontend(queue, options_of());
  Recorder second;
  const RequestId id = queue.submit(request_of(), [&](const GenerationEvent& event) {
    if (event.finish == FinishReason::kNone) return;
    queue.submit(request_of(), second.handler());
    queue.close();
  });
  frontend.collect();
  frontend.deliver(token_of(id, 1, FinishReason::kLength));
  const Orders orders = frontend.collect();
  EXPECT_EQ(orders.sequences.size(), 1U);
  EXPECT_FALSE(orders.shutdown);
}

TEST(Frontend, AFailureEndsAllRequestsAndTheQueue) {
  RequestQueue queue;
  Frontend frontend(queue, options_of());
  Recorder active;
  Recorder waiting;
  queue.submit(request_of(), active.handler());
  frontend.collect();
  queue.submit(request_of(), waiting.handler());
  frontend.fail(Status::aborted("rank 3: out of memory"));
  EXPECT_EQ(active.finish(), FinishReason::kError);
  EXPECT_EQ(waiting.finish(), FinishReason::kError);
  EXPECT_EQ(waiting.events[0].status.message(), "rank 3: out of memory");
}

TEST(Frontend, LogitsThatAreNotFiniteAreTheRequestsError) {
  RequestQueue queue;
  Frontend frontend(queue, options_of());
  Recorder recorder;
  const RequestId id = queue.submit(request_of(), recorder.handler());
  frontend.collect();
  frontend.deliver(token_of(id, -1, FinishReason::kError));
  EXPECT_EQ(recorder.finish(), FinishReason::kError);
  EXPECT_FALSE(recorder.events[0].status.is_ok());
  EXPECT_THAT(recorder.events[0].token_ids, IsEmpty());
}

}  // namespace
}  // namespace wideep::engine
