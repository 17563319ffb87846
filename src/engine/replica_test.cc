#include "engine/replica.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <latch>
#include <map>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "base/file_testing.h"
#include "base/random.h"
#include "dist/world.h"
#include "engine/hash_model_testing.h"

namespace wideep::engine {
namespace {

using ::testing::HasSubstr;

constexpr int kVocab = 40;

struct Layout {
  ParallelConfig parallel;
  int replicas = 1;
  const char* name = "";
};

// What a run of a world is made of, besides its layout.
struct Sizes {
  int max_batch_size = 8;
  int max_num_tokens = 24;
  int num_pages = 40;
  int page_size = 4;
  bool chunked_prefill = true;
  bool overlap = false;
  std::function<void(HashModel&, int rank)> prepare = {};
};

// Runs `body` with a replica of the hash model on every rank of a local world.
Status run_world(const Layout& layout, const Sizes& sizes,
                 const std::function<Status(Replica&, dist::Groups&)>& body) {
  const Mapping mapping = Mapping::create(layout.parallel).value();
  dist::World world = dist::World::local(mapping.world() * layout.replicas).value();
  ThreadPool pool(1);
  return world.run([&](dist::Communicator& communicator) -> Status {
    ASSIGN_OR_RETURN(dist::Groups groups, dist::make_groups(mapping, communicator));
    HashModel model(groups, layout.parallel.enable_attention_dp, kVocab);
    if (sizes.prepare) sizes.prepare(model, communicator.rank());
    Stream stream(pool);
    const int page_tokens = sizes.page_size * mapping.cp();
    ReplicaOptions options{
        .model = &model,
        .groups = &groups,
        .stream = &stream,
        .attention_dp = layout.parallel.enable_attention_dp,
        .overlap = sizes.overlap,
        .vocab_size = kVocab,
        .page_size = sizes.page_size,
        .scheduler = {.max_batch_size = sizes.max_batch_size,
                      .max_num_tokens = sizes.max_num_tokens,
                      .enable_chunked_prefill = sizes.chunked_prefill,
                      .kv_cache = {.num_pages = sizes.num_pages, .page_tokens = page_tokens}},
        .frontend = {.limits = {.vocab_size = kVocab,
                                .max_seq_len = 200,
                                .max_num_tokens = sizes.max_num_tokens,
                                .enable_chunked_prefill = sizes.chunked_prefill,
                                .num_pages = sizes.num_pages,
                                .page_tokens = page_tokens},
                     .eos_token_ids = {}},
        .on_iteration = {}};
    ASSIGN_OR_RETURN(const std::unique_ptr<Replica> replica, Replica::create(std::move(options)));
    return body(*replica, groups);
  });
}

struct Answer {
  std::vector<int> tokens;
  FinishReason finish = FinishReason::kNone;
  std::string error;

  bool operator==(const Answer&) const = default;
};

// GoogleTest calls it by this name.
void PrintTo(const Answer& answer, std::ostream* out) {  // NOLINT
  *out << ::testing::PrintToString(answer.tokens) << " " << to_string(answer.finish) << " "
       << answer.error;
}

EventHandler keep_in(Answer& answer) {
  return [&answer](const GenerationEvent& event) {
    answer.tokens.insert(answer.tokens.end(), event.token_ids.begin(), event.token_ids.end());
    answer.finish = event.finish;
    answer.error = event.status.message();
  };
}

// Answers all requests on a world; replica r takes every r-th.
std::vector<Answer> answer_all(const Layout& layout, const Sizes& sizes,
                               const std::vector<GenerationRequest>& requests,
                               RunStats* stats = nullptr) {
  std::vector<Answer> answers(requests.size());
  const Status status = run_world(layout, sizes, [&](Replica& replica, dist::Groups& groups) {
    RequestQueue queue;
    const bool leads = groups.model->rank() == 0;
    for (size_t i = 0; i < requests.size() && leads; ++i) {
      if (static_cast<int>(i) % groups.num_replicas != groups.replica) continue;
      queue.submit(requests[i], keep_in(answers[i]));
    }
    queue.close();
    const Result<RunStats> result = replica.run(leads ? &queue : nullptr);
    if (leads && stats != nullptr && result.is_ok()) *stats = *result;
    return result.status();
  });
  EXPECT_EQ(status.message(), "");
  return answers;
}

GenerationRequest request_of(std::vector<int> prompt, int max_new_tokens) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.max_new_tokens = max_new_tokens;
  return request;
}

std::vector<GenerationRequest> random_requests(int count, uint64_t seed) {
  Random random(seed);
  const auto below = [&](int bound) {
    return static_cast<int>(random.below(static_cast<uint64_t>(bound)));
  };
  std::vector<GenerationRequest> requests;
  for (int i = 0; i < count; ++i) {
    GenerationRequest request = request_of({}, 1 + below(24));
    for (int t = below(30); t >= 0; --t) {
      request.prompt.push_back(below(8) == 0 ? below(kVocab) : t % kVocab);
    }
    request.sampling.temperature = below(2) == 0 ? 0 : 1.0F;
    request.sampling.seed = static_cast<uint64_t>(i);
    if (below(3) == 0) request.stop_token_ids = {below(kVocab)};
    requests.push_back(std::move(request));
  }
  return requests;
}

// One at a time on one rank: what every layout and batch must give.
std::vector<Answer> answer_one_by_one(const std::vector<GenerationRequest>& requests) {
  std::vector<Answer> answers;
  for (const GenerationRequest& request : requests) {
    answers.push_back(answer_all({}, {.num_pages = 60}, {request})[0]);
  }
  return answers;
}

class ReplicaLayoutTest : public ::testing::TestWithParam<Layout> {};

TEST_P(ReplicaLayoutTest, GivesTheTokensOfOneRequestOnOneRank) {
  const std::vector<GenerationRequest> requests = random_requests(24, 1);
  const std::vector<Answer> expected = answer_one_by_one(requests);
  EXPECT_EQ(answer_all(GetParam(), {}, requests), expected);
  // So few pages that sequences are preempted, prompts in small chunks.
  RunStats stats;
  const Sizes tight{.max_batch_size = 6, .max_num_tokens = 9, .num_pages = 14, .page_size = 4};
  EXPECT_EQ(answer_all(GetParam(), tight, requests, &stats), expected);
  EXPECT_GT(stats.iterations, 0);
  if (GetParam().parallel.pipeline_parallel_size > 1) return;
  Sizes overlapping = tight;
  overlapping.overlap = true;
  EXPECT_EQ(answer_all(GetParam(), overlapping, requests), expected);
}

INSTANTIATE_TEST_SUITE_P(
    All, ReplicaLayoutTest,
    ::testing::Values(
        Layout{{}, 1, "one"}, Layout{{.tensor_parallel_size = 2}, 1, "tp2"},
        Layout{{.tensor_parallel_size = 3, .enable_attention_dp = true}, 1, "dp3"},
        Layout{{.pipeline_parallel_size = 3}, 1, "pp3"},
        Layout{{.context_parallel_size = 2}, 1, "cp2"},
        Layout{{.tensor_parallel_size = 2, .pipeline_parallel_size = 2}, 1, "tp2pp2"},
        Layout{
            {.tensor_parallel_size = 2, .pipeline_parallel_size = 2, .enable_attention_dp = true},
            1,
            "dp2pp2"},
        Layout{{.tensor_parallel_size = 2, .context_parallel_size = 2, .enable_attention_dp = true},
               1,
               "dp2cp2"},
        Layout{{.tensor_parallel_size = 2}, 2, "replicas2tp2"}),
    [](const auto& info) { return info.param.name; });

TEST(Replica, PreemptsAndSaysSo) {
  RunStats stats;
  const std::vector<GenerationRequest> requests = random_requests(24, 2);
  answer_all({}, {.max_num_tokens = 32, .num_pages = 14}, requests, &stats);
  EXPECT_GT(stats.preemptions, 0);
  EXPECT_GT(stats.recomputed_tokens, 0);
  int64_t generated = 0;
  for (const Answer& answer : answer_one_by_one(requests)) {
    generated += static_cast<int64_t>(answer.tokens.size());
  }
  EXPECT_EQ(stats.generated_tokens, generated);
}

TEST(Replica, CountsTheTokensOfAllAttentionDpRanks) {
  RunStats stats;
  const std::vector<GenerationRequest> requests(6, request_of({1, 2, 3}, 5));
  answer_all({{.tensor_parallel_size = 3, .enable_attention_dp = true}, 1}, {}, requests, &stats);
  EXPECT_EQ(stats.generated_tokens, 30);
  EXPECT_EQ(stats.computed_tokens, 6 * 7);
  EXPECT_EQ(stats.iterations, 5);  // two requests a rank, side by side
}

TEST(Replica, OneRequestsErrorLeavesTheOthersAlone) {
  Sizes sizes;
  sizes.prepare = [](HashModel& model, int) { model.poison(7); };
  const std::vector<Answer> answers =
      answer_all({{.tensor_parallel_size = 2}, 1}, sizes,
                 {request_of({1, 2}, 3), request_of({}, 3), request_of({7, 2}, 3),
                  request_of({1, 2}, 1000), request_of({1, kVocab}, 3), request_of({2}, 3)});
  EXPECT_EQ(answers[0].finish, FinishReason::kLength);
  EXPECT_THAT(answers[1].error, HasSubstr("the prompt is empty"));
  EXPECT_THAT(answers[2].error, HasSubstr("no finite number"));
  EXPECT_THAT(answers[3].error, HasSubstr("the KV cache has 40"));
  EXPECT_THAT(answers[4].error, HasSubstr("the vocabulary has the ids 0 to 39"));
  EXPECT_EQ(answers[5].tokens.size(), 3U);
}

TEST(Replica, TheCacheOutlivesARun) {
  const Status status = run_world({}, {}, [](Replica& replica, dist::Groups&) -> Status {
    for (const int64_t cached : {0, 11}) {
      RequestQueue queue;
      Answer answer;
      queue.submit(request_of({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, 4), keep_in(answer));
      queue.close();
      ASSIGN_OR_RETURN(const RunStats stats, replica.run(&queue));
      EXPECT_EQ(stats.cached_tokens, cached);
      EXPECT_EQ(stats.generated_tokens, 4);
      EXPECT_EQ(stats.computed_tokens, 15 - cached);
    }
    return Status::ok();
  });
  EXPECT_EQ(status.message(), "");
}

// Submissions and cancels come from another thread while the ranks generate, or sleep.
TEST(Replica, ServesWhatComesWhileItRuns) {
  const std::vector<GenerationRequest> requests = random_requests(20, 3);
  const std::vector<Answer> expected = answer_one_by_one(requests);
  for (const auto& [attention_dp, overlap] : {std::pair(false, false), std::pair(true, false),
                                              std::pair(false, true), std::pair(true, true)}) {
    std::vector<Answer> answers(requests.size());
    Answer cancelled;
    std::latch asked_to_cancel(1);
    const Layout layout{{.tensor_parallel_size = 2, .enable_attention_dp = attention_dp}, 1};
    const Sizes sizes{.overlap = overlap};
    const Status status = run_world(layout, sizes, [&](Replica& replica, dist::Groups& groups) {
      if (groups.model->rank() != 0) return replica.run(nullptr).status();
      RequestQueue queue;
      std::jthread client([&] {
        // However slow this thread is, the answer to cancel is not whole before the cancel.
        const auto keep = [&, keep = keep_in(cancelled)](const GenerationEvent& event) {
          keep(event);
          if (cancelled.tokens.size() == 100) asked_to_cancel.wait();
        };
        const RequestId id = queue.submit(request_of({3}, 150), keep);
        for (size_t i = 0; i < requests.size(); ++i) {
          queue.submit(requests[i], keep_in(answers[i]));
          if (i % 4 == 0) std::this_thread::yield();
        }
        queue.cancel(id);
        queue.close();
        asked_to_cancel.count_down();
      });
      return replica.run(&queue).status();
    });
    EXPECT_EQ(status.message(), "");
    EXPECT_EQ(answers, expected);
    EXPECT_EQ(cancelled.finish, FinishReason::kCancelled);
    EXPECT_LT(cancelled.tokens.size(), 150U);
  }
}

TEST(Replica, AFailingRankEndsAllWithItsMessage) {
  for (const int failing : {0, 2}) {
    Sizes sizes;
    sizes.prepare = [&](HashModel& model, int rank) {
      if (rank == failing) model.fail_at(3, Status::io("disk on fire"));
    };
    Answer answer;
    Answer later;
    const Layout layout{{.tensor_parallel_size = 3, .enable_attention_dp = true}, 1};
    const Status status = run_world(layout, sizes, [&](Replica& replica, dist::Groups& groups) {
      if (groups.model->rank() != 0) return replica.run(nullptr).status();
      RequestQueue queue;
      queue.submit(request_of({1, 2}, 20), keep_in(answer));
      const Status result = replica.run(&queue).status();
      queue.submit(request_of({1, 2}, 20), keep_in(later));
      return result;
    });
    EXPECT_THAT(status.message(), HasSubstr("disk on fire"));
    EXPECT_THAT(status.message(), HasSubstr("rank " + std::to_string(failing)));
    EXPECT_EQ(answer.finish, FinishReason::kError);
    EXPECT_THAT(answer.error, HasSubstr("disk on fire"));
    EXPECT_EQ(later.error, answer.error);
  }
}

TEST(Replica, AnExceptionOfTheModelIsAnError) {
  struct Throwing : HashModel {
    using HashModel::HashModel;
    Status forward(const models::Batch&, MatrixView) override {
      throw std::runtime_error("no more memory");
    }
  };
  dist::World world = dist::World::local(1).value();
  ThreadPool pool(1);
  Answer answer;
  const Status status = world.run([&](dist::Communicator& communicator) -> Status {
    ASSIGN_OR_RETURN(dist::Groups groups,
                     dist::make_groups(Mapping::create({}).value(), communicator));
    Throwing model(groups, false, kVocab);
    Stream stream(pool);
    ReplicaOptions options;
    options.model = &model;
    options.groups = &groups;
    options.stream = &stream;
    options.vocab_size = kVocab;
    options.page_size = 4;
    options.scheduler = {
        .max_batch_size = 1, .max_num_tokens = 8, .kv_cache = {.num_pages = 4, .page_tokens = 4}};
    options.frontend.limits = {.vocab_size = kVocab,
                               .max_seq_len = 16,
                               .max_num_tokens = 8,
                               .num_pages = 4,
                               .page_tokens = 4};
    ASSIGN_OR_RETURN(const std::unique_ptr<Replica> replica, Replica::create(std::move(options)));
    RequestQueue queue;
    queue.submit(request_of({1}, 2), keep_in(answer));
    return replica->run(&queue).status();
  });
  EXPECT_THAT(status.message(), HasSubstr("no more memory"));
  EXPECT_THAT(answer.error, HasSubstr("no more memory"));
}

}  // namespace
}  // namespace wideep::engine
