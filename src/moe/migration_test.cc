#include "moe/migration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "base/random.h"
#include "config/balancer_config.h"
#include "dist/world.h"
#include "eplb/eplb_testing.h"

namespace wideep::moe {
namespace {

using eplb::Shape;

constexpr size_t kGateUpBytes = 48, kDownBytes = 16;

std::byte value_of(int layer, int expert, size_t i) {
  return static_cast<std::byte>(layer * 131 + expert * 7 + static_cast<int>(i));
}

// The slots of one rank, each with bytes that tell layer and expert.
class RankSlots {
 public:
  RankSlots(const Shape& shape, int rank, const std::vector<std::vector<int>>& placements)
      : shape_(shape), rank_(rank) {
    for (size_t layer = 0; layer < placements.size(); ++layer) {
      memory_.emplace_back(shape.slots_per_rank() * (kGateUpBytes + kDownBytes));
      for (int s = 0; s < shape.slots_per_rank(); ++s) {
        write(static_cast<int>(layer), placements[layer][rank * shape.slots_per_rank() + s],
              slot(static_cast<int>(layer), s));
      }
    }
  }

  std::vector<std::vector<SlotBytes>> all() {
    std::vector<std::vector<SlotBytes>> slots(memory_.size());
    for (size_t layer = 0; layer < memory_.size(); ++layer) {
      for (int s = 0; s < shape_.slots_per_rank(); ++s) {
        slots[layer].push_back(slot(static_cast<int>(layer), s));
      }
    }
    return slots;
  }

  bool hold(int layer, const std::vector<int>& placement) {
    for (int s = 0; s < shape_.slots_per_rank(); ++s) {
      const int expert = placement[rank_ * shape_.slots_per_rank() + s];
      std::vector<std::byte> expected(kGateUpBytes + kDownBytes);
      write(layer, expert,
            {std::span(expected).first(kGateUpBytes), std::span(expected).subspan(kGateUpBytes)});
      const SlotBytes own = slot(layer, s);
      if (!std::ranges::equal(own.gate_up, std::span(expected).first(kGateUpBytes)) ||
          !std::ranges::equal(own.down, std::span(expected).subspan(kGateUpBytes))) {
        return false;
      }
    }
    return true;
  }

  static void write(int layer, int expert, const SlotBytes& to) {
    for (size_t i = 0; i < kGateUpBytes; ++i) to.gate_up[i] = value_of(layer, expert, i);
    for (size_t i = 0; i < kDownBytes; ++i) to.down[i] = value_of(layer, expert, i + 91);
  }

 private:
  SlotBytes slot(int layer, int s) {
    const std::span<std::byte> bytes(memory_[layer]);
    const size_t begin = s * (kGateUpBytes + kDownBytes);
    return {bytes.subspan(begin, kGateUpBytes), bytes.subspan(begin + kGateUpBytes, kDownBytes)};
  }

  Shape shape_;
  int rank_;
  std::vector<std::vector<std::byte>> memory_;
};

class AllExperts : public ExpertSource {
 public:
  SlotBytes expert(int layer_index, int expert) const override {
    RankSlots::write(
        layer_index, expert,
        {std::span(memory_).first(kGateUpBytes), std::span(memory_).subspan(kGateUpBytes)});
    return {std::span(memory_).first(kGateUpBytes), std::span(memory_).subspan(kGateUpBytes)};
  }

 private:
  mutable std::vector<std::byte> memory_ = std::vector<std::byte>(kGateUpBytes + kDownBytes);
};

// Copies that are done some iterations after they were asked for, on each rank when it likes, as on
// GPUs: what is read too late or overwritten too early is the wrong expert.
class LateCopies : public ExpertCopies {
 public:
  using Staging = std::vector<std::vector<std::byte>>;  // [ranks][places, expert]

  LateCopies(Staging& staging, int rank, const StagingShape& shape)
      : staging_(staging), rank_(rank), shape_(shape), random_(static_cast<uint64_t>(rank) + 7) {}

  Status begin_boundary() override {
    boundaries_.emplace_back();
    return Status::ok();
  }
  Status send(const SlotBytes& from, int target, int place) override {
    boundaries_.back().push_back({from, at(target, place), false});
    return Status::ok();
  }
  Status receive(int, int) override { return Status::ok(); }
  // In order with the model: there at once, but who says when staging has been read?
  Status commit(int place, const SlotBytes& slot) override {
    copy_expert(at(rank_, place), slot);
    boundaries_.back().push_back({slot, at(rank_, place), true});
    return Status::ok();
  }
  Status end_boundary() override { return Status::ok(); }

  int64_t num_done() override {
    while (!boundaries_.empty() && random_.below(3) > 0) {
      for (const Copy& copy : boundaries_.front()) {
        if (copy.is_commit) {
          // The commit's slot still has what it took: so has the place.
          was_overwritten |= !std::ranges::equal(copy.from.gate_up, copy.place.gate_up);
        } else {
          copy_expert(copy.from, copy.place);
        }
      }
      boundaries_.pop_front();
      ++num_done_;
    }
    return num_done_;
  }

  bool was_overwritten = false;

 private:
  struct Copy {
    SlotBytes from;
    SlotBytes place;
    bool is_commit = false;
  };

  SlotBytes at(int rank, int place) const {
    const auto begin = static_cast<size_t>(place * shape_.expert_bytes());
    const std::span<std::byte> bytes(staging_[rank]);
    return {bytes.subspan(begin, kGateUpBytes), bytes.subspan(begin + kGateUpBytes, kDownBytes)};
  }

  Staging& staging_;
  int rank_;
  StagingShape shape_;
  Random random_;
  std::deque<std::vector<Copy>> boundaries_;  // that are not done
  int64_t num_done_ = 0;
};

struct MigrationCase {
  Shape shape;
  std::vector<std::vector<int>> start;  // [layers][num_slots]
  std::vector<LayerPlacement> updates;  // one is added each iteration
  int max_rounds_per_iter = 1;
  bool from_source = false;
};

MigrationCase random_case(Random& random) {
  MigrationCase made;
  made.shape = eplb::random_shape(random, 6, 5);
  const int layers = 1 + static_cast<int>(random.below(3));
  for (int l = 0; l < layers; ++l) {
    made.start.push_back(eplb::random_slots(random, made.shape));
  }
  for (int i = 0; i < 12; ++i) {
    LayerPlacement& update = made.updates.emplace_back();
    update.layer_index = static_cast<int>(random.below(layers));
    update.slots = eplb::random_slots(random, made.shape);
  }
  made.max_rounds_per_iter = 1 + static_cast<int>(random.below(3));
  made.from_source = random.below(2) == 0;
  return made;
}

MigrationOptions options_of(const Shape& shape, dist::Communicator& group, RankSlots& slots) {
  MigrationOptions options;
  options.shape = shape;
  options.group = &group;
  options.slots = slots.all();
  return options;
}

// The least of all ranks' iterations whose copies are done.
Result<int64_t> agree(dist::Communicator& group, Migration& migration) {
  int64_t least = -migration.num_done();
  RETURN_IF_ERROR(group.all_reduce_max(std::span(&least, 1)));
  return -least;
}

// Runs a case on one rank: after every iteration the slots hold what was committed, in the end what
// came last. staging: of all ranks, for late copies; or null.
Status run_rank(const MigrationCase& made, dist::Communicator& group,
                LateCopies::Staging* staging = nullptr) {
  RankSlots slots(made.shape, group.rank(), made.start);
  const AllExperts source;
  MigrationOptions options = options_of(made.shape, group, slots);
  options.max_rounds_per_iter = made.max_rounds_per_iter;
  options.source = made.from_source ? &source : nullptr;
  const LateCopies* late = nullptr;
  if (staging != nullptr) {
    auto copies = std::make_unique<LateCopies>(
        *staging, group.rank(), staging_shape(made.shape, options.slots.front().front()));
    late = copies.get();
    options.copies = std::move(copies);
  }
  ASSIGN_OR_RETURN(Migration migration, Migration::create(std::move(options)));
  std::vector<std::vector<int>> placements = made.start;
  size_t committed = 0;
  for (size_t i = 0; i < made.updates.size() || !migration.is_idle(); ++i) {
    if (i > 1000) return Status::unavailable("the migration does not end");
    ASSIGN_OR_RETURN(const int64_t agreed, agree(group, migration));
    ASSIGN_OR_RETURN(const auto finished, migration.finish(agreed));
    for (const LayerPlacement& placement : finished) {
      if (placement.slots != made.updates[committed++].slots) {
        return Status::unavailable("updates are committed out of order");
      }
      placements[placement.layer_index] = placement.slots;
    }
    if (i < made.updates.size()) {
      migration.add(made.updates[i], placements[made.updates[i].layer_index]);
    }
    RETURN_IF_ERROR(migration.issue());
    for (size_t l = 0; l < placements.size(); ++l) {
      if (!slots.hold(static_cast<int>(l), placements[l])) {
        return Status::unavailable("a slot does not hold its expert");
      }
    }
  }
  if (late != nullptr && late->was_overwritten) {
    return Status::unavailable("a place was used again while a commit read it");
  }
  return committed == made.updates.size() ? Status::ok()
                                          : Status::unavailable("an update was lost");
}

TEST(Migration, BringsEveryExpertToItsSlot) {
  Random random(1);
  for (int round = 0; round < 60; ++round) {
    const MigrationCase made = random_case(random);
    dist::World world = dist::World::local(made.shape.num_ranks).value();
    const Status status =
        world.run([&](dist::Communicator& group) { return run_rank(made, group); });
    ASSERT_TRUE(status.is_ok()) << "round " << round << ": " << status.message();
  }
}

TEST(Migration, WaitsForCopiesOfAllRanks) {
  Random random(2);
  for (int round = 0; round < 60; ++round) {
    MigrationCase made = random_case(random);
    made.from_source = false;
    LateCopies::Staging staging(
        static_cast<size_t>(made.shape.num_ranks),
        std::vector<std::byte>(static_cast<size_t>(made.shape.slots_per_rank()) *
                               (kGateUpBytes + kDownBytes)));
    dist::World world = dist::World::local(made.shape.num_ranks).value();
    const Status status =
        world.run([&](dist::Communicator& group) { return run_rank(made, group, &staging); });
    ASSERT_TRUE(status.is_ok()) << "round " << round << ": " << status.message();
  }
}

// Two ranks of two slots that exchange both experts: two transfers each way, one round an
// iteration.
TEST(Migration, BoundsTheTransfersOfAnIteration) {
  const Shape shape = {.num_experts = 4, .num_slots = 4, .num_ranks = 2};
  const std::vector<int> start = {0, 1, 2, 3}, next = {2, 3, 0, 1};
  dist::World world = dist::World::local(2).value();
  const Status status = world.run([&](dist::Communicator& group) -> Status {
    RankSlots slots(shape, group.rank(), {start});
    ASSIGN_OR_RETURN(Migration migration, Migration::create(options_of(shape, group, slots)));
    migration.add({0, next, {}}, start);
    std::vector<int> transfers, commits;
    for (int i = 0; i < 4; ++i) {
      RETURN_IF_ERROR(migration.finish().status());
      RETURN_IF_ERROR(migration.issue());
      transfers.push_back(migration.work().transfers);
      commits.push_back(migration.work().commits);
    }
    EXPECT_THAT(transfers, testing::ElementsAre(2, 2, 0, 0));
    EXPECT_THAT(commits, testing::ElementsAre(0, 0, 1, 0));
    return Status::ok();
  });
  EXPECT_TRUE(status.is_ok()) << status.message();
}

// Two ranks of DeepSeek-V3's size that exchange all of a layer's experts, the most that a plan can
// ask for, with as many transfers an iteration as there are by default, and copies that are done an
// iteration after the one that sent them.
TEST(Migration, BringsAWholeLayerWithinTwentyIterations) {
  const Shape shape = {.num_experts = 256, .num_slots = 260, .num_ranks = 2};
  std::vector<int> start(260);
  for (int slot = 0; slot < 260; ++slot) start[slot] = slot % 256;
  std::vector<int> next = start;
  std::rotate(next.begin(), next.begin() + shape.slots_per_rank(), next.end());
  dist::World world = dist::World::local(2).value();
  const Status status = world.run([&](dist::Communicator& group) -> Status {
    RankSlots slots(shape, group.rank(), {start});
    MigrationOptions options = options_of(shape, group, slots);
    options.max_rounds_per_iter = BalancerConfig().max_transfers_per_iter;
    ASSIGN_OR_RETURN(Migration migration, Migration::create(std::move(options)));
    migration.add({0, next, {}}, start);
    int iterations = 0;
    for (; !migration.is_idle() && iterations < 100; ++iterations) {
      RETURN_IF_ERROR(migration.finish(iterations - 1).status());
      RETURN_IF_ERROR(migration.issue());
    }
    EXPECT_LE(iterations, 20);
    EXPECT_TRUE(slots.hold(0, next));
    return Status::ok();
  });
  EXPECT_TRUE(status.is_ok()) << status.message();
}

}  // namespace
}  // namespace wideep::moe
