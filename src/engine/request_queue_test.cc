#include "engine/request_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

namespace wideep::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(RequestQueue, GivesWhatCameInOrder) {
  RequestQueue queue;
  EXPECT_EQ(queue.submit({.prompt = {1}}, [](const GenerationEvent&) {}), 0);
  EXPECT_EQ(queue.submit({.prompt = {2}}, [](const GenerationEvent&) {}), 1);
  queue.cancel(0);
  const RequestQueue::News news = queue.take(/*wait=*/true);
  ASSERT_EQ(news.submissions.size(), 2U);
  EXPECT_EQ(news.submissions[1].id, 1);
  EXPECT_THAT(news.submissions[1].request.prompt, ElementsAre(2));
  EXPECT_THAT(news.cancels, ElementsAre(0));
  EXPECT_FALSE(news.closed);
  EXPECT_THAT(queue.take(/*wait=*/false).submissions, IsEmpty());
}

TEST(RequestQueue, WaitsForASubmissionOfAnotherThread) {
  RequestQueue queue;
  std::jthread submitter([&] { queue.submit({}, [](const GenerationEvent&) {}); });
  EXPECT_EQ(queue.take(/*wait=*/true).submissions.size(), 1U);
}

TEST(RequestQueue, StaysClosed) {
  RequestQueue queue;
  queue.close();
  EXPECT_TRUE(queue.take(/*wait=*/true).closed);
  EXPECT_TRUE(queue.take(/*wait=*/true).closed);
  std::vector<std::string> errors;
  queue.submit({}, [&](const GenerationEvent& event) {
    EXPECT_EQ(event.finish, FinishReason::kError);
    errors.push_back(event.status.message());
  });
  EXPECT_THAT(errors, ElementsAre("the engine takes no more requests"));
}

TEST(RequestQueue, AFailureAnswersWhatWaitsAndWhatComes) {
  RequestQueue queue;
  std::vector<std::string> errors;
  const auto keep = [&](const GenerationEvent& event) { errors.push_back(event.status.message()); };
  queue.submit({}, keep);
  queue.fail(Status::aborted("rank 1: gone"));
  queue.submit({}, keep);
  EXPECT_THAT(errors, ElementsAre("rank 1: gone", "rank 1: gone"));
}

}  // namespace
}  // namespace wideep::engine
