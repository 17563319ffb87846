#include "alltoall/alltoall.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "alltoall/all_to_all_testing.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "dist/world.h"

namespace wideep::alltoall {
namespace {

using testing::HasSubstr;

constexpr Transport kTransports[] = {Transport::kSharedMemory, Transport::kMessages,
                                     Transport::kGather};

// The case on a local world, with every transport and both ways to combine.
void expect_reference(const BatchCase& batch) {
  ThreadPool pool(2);
  for (const Transport transport : kTransports) {
    for (const CombineMode combine : {CombineMode::kReduced, CombineMode::kExact}) {
      SCOPED_TRACE(testing::Message()
                   << batch.describe() << ", transport " << static_cast<int>(transport)
                   << ", combine " << static_cast<int>(combine));
      GroupShape shape = batch.shape;
      shape.transport = transport;
      shape.combine = combine;
      dist::World world = dist::World::local(batch.num_ranks()).value();
      const Status status = world.run([&](dist::Communicator& group) -> Status {
        Stream stream(pool);
        ASSIGN_OR_RETURN(const auto all_to_all, AllToAll::create(group, shape));
        // Twice, the second time over what the first left.
        for (int round = 0; round < 2; ++round) {
          RETURN_IF_ERROR(check_round_trip(batch, shape, stream, group.rank(), *all_to_all));
        }
        return Status::ok();
      });
      ASSERT_TRUE(status.is_ok()) << status.message();
    }
  }
}

TEST(AllToAll, IsExactForRandomBatches) {
  Random random(1);
  for (int round = 0; round < 30; ++round) expect_reference(random_batch(random));
}

TEST(AllToAll, TakesAllTokensToOneSlot) {
  Random random(2);
  BatchCase batch =
      make_batch(random, {.num_slots = 8, .top_k = 3, .hidden_size = 5}, {4, 9, 1, 7});
  for (auto& slots : batch.slots) std::ranges::fill(slots, 6);
  expect_reference(batch);
}

TEST(AllToAll, TakesTokensOfOneRankOnlyAndNone) {
  Random random(3);
  const GroupShape shape = {.num_slots = 6, .top_k = 2, .hidden_size = 16};
  expect_reference(make_batch(random, shape, {0, 11, 0}));
  expect_reference(make_batch(random, shape, {0, 0, 0}));
}

TEST(AllToAll, ServesOneRankAndSixtyFour) {
  Random random(4);
  expect_reference(make_batch(random, {.num_slots = 5, .top_k = 5, .hidden_size = 33}, {13}));
  expect_reference(make_batch(random, {.num_slots = 128, .top_k = 22, .hidden_size = 8},
                              std::vector<int>(64, 3)));
}

// Sends a case through a local world whose rank 1 sleeps before one of its calls.
void expect_reference_with_delay(int delayed_call) {
  Random random(5);
  const BatchCase batch =
      make_batch(random, {.num_slots = 6, .top_k = 2, .hidden_size = 16}, {5, 6, 7});
  ThreadPool pool(1);
  dist::World world = dist::World::local(3).value();
  const Status status = world.run([&](dist::Communicator& group) -> Status {
    Stream stream(pool);
    ASSIGN_OR_RETURN(const auto all_to_all, AllToAll::create(group, batch.shape));
    const auto before_call = [&](int call) {
      if (group.rank() == 1 && call == delayed_call) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
      }
    };
    for (int round = 0; round < 3; ++round) {
      RETURN_IF_ERROR(
          check_round_trip(batch, batch.shape, stream, group.rank(), *all_to_all, before_call));
    }
    return Status::ok();
  });
  EXPECT_TRUE(status.is_ok()) << status.message();
}

TEST(AllToAll, WaitsForALateRankInEveryPhase) {
  for (int call = 0; call < 3; ++call) expect_reference_with_delay(call);
}

Status create_with(const std::vector<GroupShape>& shapes) {
  dist::World world = dist::World::local(static_cast<int>(shapes.size())).value();
  return world.run([&](dist::Communicator& group) -> Status {
    return AllToAll::create(group, shapes[group.rank()]).status();
  });
}

TEST(AllToAll, RefusesShapesThatDiffer) {
  const GroupShape shape = {.num_slots = 6, .top_k = 2, .hidden_size = 8, .max_tokens = 10};
  GroupShape other = shape;
  other.hidden_size = 16;
  const Status status = create_with({shape, other, shape});
  EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
  EXPECT_THAT(status.message(), HasSubstr("hidden_size is 8 on rank 0 and 16 on rank 1"));
}

TEST(AllToAll, RefusesSlotsThatDoNotDivide) {
  const GroupShape shape = {.num_slots = 7, .top_k = 2, .hidden_size = 8, .max_tokens = 10};
  EXPECT_THAT(create_with({shape, shape}).message(), HasSubstr("7 slots"));
}

TEST(AllToAll, RefusesMoreTokensThanItWasMadeFor) {
  Random random(6);
  BatchCase batch = make_batch(random, {.num_slots = 4, .top_k = 2, .hidden_size = 8}, {5, 6});
  batch.shape.max_tokens = 10;
  ThreadPool pool(1);
  dist::World world = dist::World::local(2).value();
  const Status status = world.run([&](dist::Communicator& group) -> Status {
    Stream stream(pool);
    ASSIGN_OR_RETURN(const auto all_to_all, AllToAll::create(group, batch.shape));
    return all_to_all->plan(stream, batch.routing(group.rank()));
  });
  EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
  EXPECT_THAT(status.message(), HasSubstr("22 rows in one batch: the group was made for 20"));
}

// One rank leaves with an error while the others are on their way; nobody reads what it had.
TEST(AllToAll, EndsForAllWhenARankLeaves) {
  Random random(7);
  const BatchCase batch =
      make_batch(random, {.num_slots = 8, .top_k = 4, .hidden_size = 2048}, {64, 64, 64, 64});
  for (int round = 0; round < 20; ++round) {
    ThreadPool pool(1);
    dist::World world = dist::World::local(4).value();
    const Status status = world.run([&](dist::Communicator& group) -> Status {
      Stream stream(pool);
      ASSIGN_OR_RETURN(const auto all_to_all, AllToAll::create(group, batch.shape));
      for (int i = 0;; ++i) {
        if (group.rank() == round % 4 && i == 3) return Status::unavailable("gone");
        RETURN_IF_ERROR(check_round_trip(batch, batch.shape, stream, group.rank(), *all_to_all));
      }
    });
    EXPECT_THAT(status.message(), HasSubstr("gone"));
  }
}

}  // namespace
}  // namespace wideep::alltoall
