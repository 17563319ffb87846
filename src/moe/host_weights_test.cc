#include "moe/host_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "base/file_testing.h"
#include "base/random.h"
#include "dist/world.h"
#include "eplb/eplb_testing.h"

namespace wideep::moe {
namespace {

using eplb::Shape;
using testing::HasSubstr;

// Slots whose bytes tell layer and expert.
class RankSlots {
 public:
  RankSlots(const Shape& shape, int rank, const std::vector<std::vector<int>>& placements) {
    for (size_t layer = 0; layer < placements.size(); ++layer) {
      slots_.emplace_back();
      for (int s = 0; s < shape.slots_per_rank(); ++s) {
        const int expert = placements[layer][rank * shape.slots_per_rank() + s];
        auto& bytes = memory_.emplace_back(std::make_unique<std::array<std::byte, 96>>());
        std::ranges::fill(*bytes, value_of(static_cast<int>(layer), expert));
        slots_.back().push_back({std::span(*bytes).first(64), std::span(*bytes).last(32)});
      }
    }
  }

  static std::byte value_of(int layer, int expert) {
    return static_cast<std::byte>(layer * 100 + expert);
  }
  const std::vector<std::vector<SlotBytes>>& slots() const { return slots_; }

 private:
  std::vector<std::unique_ptr<std::array<std::byte, 96>>> memory_;
  std::vector<std::vector<SlotBytes>> slots_;
};

HostWeightsOptions options_of(const Shape& shape, const std::vector<std::vector<int>>& placements,
                              const RankSlots& slots) {
  HostWeightsOptions options;
  options.shape = shape;
  options.placements = placements;
  options.slots = slots.slots();
  return options;
}

TEST(HostWeights, HoldsEveryExpertOfEveryLayer) {
  Random random(1);
  for (int round = 0; round < 20; ++round) {
    const Shape shape = eplb::random_shape(random, 7, 4);
    const std::vector<std::vector<int>> placements = {eplb::random_slots(random, shape),
                                                      eplb::random_slots(random, shape)};
    dist::World world = dist::World::local(shape.num_ranks).value();
    const Status status = world.run([&](dist::Communicator& group) -> Status {
      const RankSlots slots(shape, group.rank(), placements);
      ASSIGN_OR_RETURN(const auto weights,
                       HostWeights::create(group, options_of(shape, placements, slots)));
      EXPECT_EQ(weights->bytes_of_host(), 2 * 96 * shape.num_experts);
      for (int layer = 0; layer < 2; ++layer) {
        for (int expert = 0; expert < shape.num_experts; ++expert) {
          const SlotBytes bytes = weights->expert(layer, expert);
          const std::byte value = RankSlots::value_of(layer, expert);
          EXPECT_EQ(std::ranges::count(bytes.gate_up, value), 64);
          EXPECT_EQ(std::ranges::count(bytes.down, value), 32);
        }
      }
      return group.barrier();
    });
    ASSERT_TRUE(status.is_ok()) << status.message();
  }
}

Status create_with(const SharedMemoryOptions& memory) {
  const Shape shape = {.num_experts = 4, .num_slots = 4, .num_ranks = 2};
  const std::vector<std::vector<int>> placements = {{0, 1, 2, 3}};
  dist::World world = dist::World::local(2).value();
  return world.run([&](dist::Communicator& group) -> Status {
    const RankSlots slots(shape, group.rank(), placements);
    HostWeightsOptions options = options_of(shape, placements, slots);
    options.memory = memory;
    return HostWeights::create(group, options).status();
  });
}

TEST(HostWeights, SaysThatHugePagesAreRefused) {
  SharedMemoryOptions memory;
  memory.huge_pages = true;
  memory.advise = [](void*, size_t, int) {
    errno = EINVAL;
    return -1;
  };
  EXPECT_THAT(create_with(memory).message(), HasSubstr("madvise(MADV_HUGEPAGE) failed"));
}

TEST(HostWeights, NeedsAFolderForItsSegments) {
  const TemporaryFolder folder;
  SharedMemoryOptions memory;
  memory.folder = folder.path() + "/missing";
  EXPECT_THAT(create_with(memory).message(), HasSubstr("missing"));
}

}  // namespace
}  // namespace wideep::moe
