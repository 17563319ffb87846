#include "cli/bench_load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

namespace wideep::cli {
namespace {

using engine::FinishReason;
using engine::RequestQueue;

// Plays the engine: `num_tokens` events for each request, oldest first.
struct Engine {
  RequestQueue& queue;
  size_t most_in_flight = 0;

  void serve(int num_tokens, const Status& status = {}) {
    std::deque<RequestQueue::Submission> waiting;
    while (true) {
      RequestQueue::News news = queue.take(/*wait=*/false);
      for (auto& submission : news.submissions) waiting.push_back(std::move(submission));
      if (waiting.empty()) {
        EXPECT_TRUE(news.closed);
        return;
      }
      most_in_flight = std::max(most_in_flight, waiting.size());
      const RequestQueue::Submission request = std::move(waiting.front());
      waiting.pop_front();
      for (int token = 0; token + 1 < num_tokens; ++token) {
        request.handler({.id = request.id, .token_ids = {1}});
      }
      request.handler({.id = request.id,
                       .token_ids = {1},
                       .finish = status.is_ok() ? FinishReason::kLength : FinishReason::kError,
                       .status = status});
    }
  }
};

std::vector<engine::GenerationRequest> requests_of(int count) {
  return std::vector<engine::GenerationRequest>(static_cast<size_t>(count), {.prompt = {1, 2, 3}});
}

TEST(BenchLoad, KeepsRequestsInFlightUntilTheEnd) {
  for (const int concurrency : {1, 3, 10}) {
    RequestQueue queue;
    int answered = 0;
    BenchLoad load(queue, requests_of(7), concurrency, [&] { ++answered; });
    load.start();
    Engine engine{queue};
    engine.serve(4);
    EXPECT_EQ(engine.most_in_flight, static_cast<size_t>(std::min(concurrency, 7)));
    EXPECT_EQ(answered, 7);
    ASSERT_EQ(load.records().size(), 7U);
    EXPECT_EQ(load.records()[0].input_tokens, 3);
    EXPECT_EQ(load.records()[0].output_tokens, 4);
    EXPECT_LE(load.records()[0].first_token, load.records()[0].last_token);
  }
}

TEST(BenchLoad, WithoutALimitAllGoAtOnce) {
  RequestQueue queue;
  BenchLoad load(queue, requests_of(5), 0);
  load.start();
  Engine engine{queue};
  engine.serve(1);
  EXPECT_EQ(engine.most_in_flight, 5U);
}

TEST(BenchLoad, WithoutRequestsTheQueueIsClosed) {
  RequestQueue queue;
  BenchLoad load(queue, {}, 4);
  load.start();
  EXPECT_TRUE(queue.take(/*wait=*/false).closed);
}

TEST(BenchLoad, KeepsTheFirstError) {
  RequestQueue queue;
  BenchLoad load(queue, requests_of(3), 1);
  load.start();
  Engine engine{queue};
  engine.serve(1, Status::invalid_input("too long"));
  EXPECT_EQ(load.status().message(), "too long");
  EXPECT_TRUE(load.records().empty());
}

}  // namespace
}  // namespace wideep::cli
