#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/env_testing.h"
#include "dist/rank_cases_testing.h"
#include "dist/world.h"

namespace wideep::dist {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int kMaxSize = 9;

World local_world(int size) {
  Result<World> world = World::local(size);
  CHECK(world.is_ok());
  return std::move(world).value();
}

class LocalWorldTest : public testing::TestWithParam<RankCase> {};

INSTANTIATE_TEST_SUITE_P(Cases, LocalWorldTest, testing::ValuesIn(passing_cases()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(LocalWorldTest, PassesOnEverySize) {
  for (int size = 1; size <= kMaxSize; ++size) {
    const Status status = local_world(size).run(GetParam().body);
    EXPECT_TRUE(status.is_ok()) << size << " ranks: " << status.message();
  }
}

class LocalFailureTest : public testing::TestWithParam<RankCase> {};

INSTANTIATE_TEST_SUITE_P(Cases, LocalFailureTest, testing::ValuesIn(failing_cases()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(LocalFailureTest, EndsAllRanksWithTheFirstCause) {
  for (int size = 2; size <= kMaxSize; ++size) {
    World world = local_world(size);
    std::vector<Status> seen(size);
    const Status status = world.run([&](Communicator& rank) {
      // What the others' bodies saw; a wrong message there would be lost behind the first cause.
      seen[rank.rank()] = GetParam().body(rank);
      return seen[rank.rank()];
    });
    EXPECT_THAT(status.message(), HasSubstr(kFailureMessage));
    EXPECT_THAT(status.message(), HasSubstr("rank " + std::to_string(size - 1) + ": "));
    EXPECT_NE(status.exit_code(), 0);
    for (int r = 0; r + 1 < size; ++r) EXPECT_TRUE(seen[r].is_ok()) << seen[r].message();
    // The next run starts anew.
    EXPECT_TRUE(world.run([](Communicator& rank) { return rank.barrier(); }).is_ok());
  }
}

TEST(LocalWorldErrorTest, KeepsTheKindOfFailure) {
  const Status status = local_world(3).run([](Communicator& rank) -> Status {
    if (rank.rank() == 1) return Status::not_found("model/config.json: not there");
    return rank.barrier();
  });
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "rank 1: model/config.json: not there");
}

TEST(LocalWorldErrorTest, OneRankNeedsNoRankInItsMessage) {
  const Status status =
      local_world(1).run([](Communicator&) { return Status::not_found("no such model"); });
  EXPECT_EQ(status.message(), "no such model");
}

TEST(LocalWorldErrorTest, EndsTheProcessWhereARankHearsOfNothing) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto run = [] {
    World world =
        World::local(
            2,
            {.abort_after_seconds = 1,
             .on_kill = [](const Status& cause) { fmt::print(stderr, "{}\n", cause.message()); }})
            .value();
    (void)world.run([](Communicator& rank) -> Status {
      if (rank.rank() == 1) return Status::io("the GPU is gone");
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    });
  };
  EXPECT_EXIT(run(), testing::ExitedWithCode(Status::io("").exit_code()),
              "rank 1: the GPU is gone");
}

TEST(LocalWorldErrorTest, CatchesWhatIsNoException) {
  const Status status = local_world(2).run([](Communicator& rank) -> Status {
    if (rank.rank() == 0) throw 7;
    return rank.barrier();
  });
  EXPECT_THAT(status.message(), HasSubstr("rank 0: threw"));
}

TEST(LocalWorldErrorTest, RefusesSizes) {
  for (const int size : {0, -3}) {
    const Result<World> world = World::local(size);
    ASSERT_FALSE(world.is_ok());
    EXPECT_EQ(world.status().code(), StatusCode::kInvalidInput);
    EXPECT_THAT(world.status().message(), HasSubstr(std::to_string(size) + " ranks"));
  }
}

// Ranks in calls of different groups, or gone, wait for each other for ever: an error says who
// waits for what.
TEST(LocalWorldErrorTest, StandstillOfGroups) {
  const Status status = local_world(3).run([](Communicator& rank) -> Status {
    Result<std::unique_ptr<Communicator>> pair = rank.split(rank.rank() < 2 ? 0 : -1, 0);
    RETURN_IF_ERROR(pair.status());
    return rank.rank() == 0 ? (*pair)->barrier() : rank.barrier();
  });
  EXPECT_THAT(status.message(), AllOf(HasSubstr("the ranks wait for each other"),
                                      HasSubstr("rank 0 in barrier of ranks 0 1"),
                                      HasSubstr("rank 1 in barrier of ranks 0 1 2"),
                                      HasSubstr("rank 2 in barrier of ranks 0 1 2")));
}

// Its error is the one that counts, not that the ranks wait for each other.
TEST(LocalWorldErrorTest, ARankThatFailedLeavesAlone) {
  const Status status = local_world(2).run([](Communicator& rank) -> Status {
    if (rank.rank() == 1) return rank.barrier();
    EXPECT_FALSE(rank.leave());
    EXPECT_FALSE(rank.leave());
    return Status::io("the disk is full");
  });
  EXPECT_EQ(status.message(), "rank 0: the disk is full");
}

TEST(LocalWorldErrorTest, StandstillOfMessages) {
  const Status status = local_world(2).run([](Communicator& rank) {
    std::byte data{};
    return rank.recv(std::span(&data, 1), 1 - rank.rank(), 4);
  });
  EXPECT_THAT(status.message(), AllOf(HasSubstr("rank 0 in recv from rank 1 with tag 4"),
                                      HasSubstr("rank 1 in recv from rank 0 with tag 4")));
}

TEST(LocalWorldErrorTest, StandstillBecauseARankHasEnded) {
  const Status status = local_world(4).run(
      [](Communicator& rank) { return rank.rank() == 2 ? Status::ok() : rank.barrier(); });
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("rank 2 has ended"), HasSubstr("rank 3 in barrier")));
}

// A failure while large work is being shared out must not pull buffers from under the workers.
TEST(LocalWorldErrorTest, FailureDuringLargeWork) {
  for (int round = 0; round < 20; ++round) {
    World world = local_world(6);
    const Status status = world.run([&](Communicator& rank) -> Status {
      Result<std::unique_ptr<Communicator>> part = rank.split(rank.rank() == 5 ? 1 : 0, 0);
      RETURN_IF_ERROR(part.status());
      if (rank.rank() == 5) return Status::io(kFailureMessage);
      for (int i = 0; i < 1000; ++i) {
        std::vector<float> data(300'000, 1.0F);
        RETURN_IF_ERROR((*part)->all_reduce_sum(data));
      }
      return {};
    });
    EXPECT_THAT(status.message(), HasSubstr(kFailureMessage));
  }
}

TEST(LocalWorldRunTest, RunsTheBodiesAtOnceOnTheirThreads) {
  std::vector<std::thread::id> threads(4);
  std::atomic<int> inside{0};
  const Status status = local_world(4).run([&](Communicator& rank) -> Status {
    threads[rank.rank()] = std::this_thread::get_id();
    ++inside;
    RETURN_IF_ERROR(rank.barrier());
    return inside == 4 ? Status::ok() : Status::aborted("a rank passed the barrier early");
  });
  EXPECT_TRUE(status.is_ok()) << status.message();
  EXPECT_EQ(threads[0], std::this_thread::get_id());
  std::sort(threads.begin(), threads.end());
  EXPECT_EQ(std::unique(threads.begin(), threads.end()), threads.end());
}

// A communicator that is kept longer than its run.
TEST(LocalWorldRunTest, GroupsOutliveTheRun) {
  std::vector<std::unique_ptr<Communicator>> kept(2);
  const Status status = local_world(2).run([&](Communicator& rank) -> Status {
    ASSIGN_OR_RETURN(kept[rank.rank()], rank.split(rank.rank(), 0));
    return {};
  });
  ASSERT_TRUE(status.is_ok());
  for (const auto& alone : kept) EXPECT_TRUE(alone->barrier().is_ok());
}

struct LaunchVariables {
  LaunchVariables(const char* size, const char* rank, const char* local_size,
                  const char* local_rank)
      : size_(env::kMpiSize, size),
        rank_(env::kMpiRank, rank),
        local_size_(env::kMpiLocalSize, local_size),
        local_rank_(env::kMpiLocalRank, local_rank) {}
  env::ScopedVariable size_, rank_, local_size_, local_rank_;
};

TEST(LaunchTest, ReadsWhatMpirunSets) {
  const LaunchVariables variables("16", "9", "8", "1");
  const Result<std::optional<Launch>> launch = launch_from_environment();
  ASSERT_TRUE(launch.is_ok()) << launch.status().message();
  ASSERT_TRUE(launch->has_value());
  EXPECT_EQ((*launch)->size, 16);
  EXPECT_EQ((*launch)->rank, 9);
  EXPECT_EQ((*launch)->local_size, 8);
  EXPECT_EQ((*launch)->local_rank, 1);
}

TEST(LaunchTest, NothingWithoutMpirun) {
  const LaunchVariables variables(nullptr, nullptr, nullptr, nullptr);
  const Result<std::optional<Launch>> launch = launch_from_environment();
  ASSERT_TRUE(launch.is_ok());
  EXPECT_FALSE(launch->has_value());
}

TEST(LaunchTest, RefusesContradictions) {
  const std::vector<std::pair<std::array<const char*, 4>, const char*>> cases = {
      {{"4", "four", "4", "0"}, "OMPI_COMM_WORLD_RANK: 'four'"},
      {{"4", nullptr, "4", "0"}, "OMPI_COMM_WORLD_RANK is not set"},
      {{"4", "4", "4", "0"}, "OMPI_COMM_WORLD_RANK=4"},
      {{"0", "0", "1", "0"}, "OMPI_COMM_WORLD_SIZE=0"},
      {{"4", "0", "2", "-1"}, "OMPI_COMM_WORLD_LOCAL_RANK=-1"}};
  for (const auto& [values, expected] : cases) {
    const LaunchVariables variables(values[0], values[1], values[2], values[3]);
    const Result<std::optional<Launch>> launch = launch_from_environment();
    ASSERT_FALSE(launch.is_ok()) << expected;
    EXPECT_EQ(launch.status().code(), StatusCode::kInvalidInput);
    EXPECT_THAT(launch.status().message(), HasSubstr(expected));
  }
}

}  // namespace
}  // namespace wideep::dist
