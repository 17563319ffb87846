#include "moe/layer_profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

#include "base/thread_pool.h"
#include "dist/tensor_group.h"
#include "dist/world.h"
#include "eplb/eplb_testing.h"
#include "moe/conventional_layer.h"
#include "moe/moe_testing.h"
#include "moe/wide_ep_layer.h"

namespace wideep::moe {
namespace {

using Times = LayerProfile::Times;

double of(const Times& times, Phase phase) {
  return times[static_cast<size_t>(phase)];
}

// The rank that comes last to a meeting waits for nobody; what happens between phases is nobody's.
TEST(LayerProfile, TellsWaitingFromWork) {
  constexpr int kRanks = 3;
  constexpr double kWorkUs = 3000;
  ThreadPool pool(1);
  dist::World world = dist::World::local(kRanks).value();
  std::vector<std::vector<Times>> times(kRanks);
  const Status status = world.run([&](dist::Communicator& group) -> Status {
    Stream stream(pool);
    LayerProfile profile(stream, [&] { return group.barrier(); });
    for (int call = 0; call < 2; ++call) {
      profile.begin(stream, Phase::kRouter);
      if (group.rank() == 1) std::this_thread::sleep_for(std::chrono::microseconds(3000));
      RETURN_IF_ERROR(profile.meet(stream, Phase::kDispatch));
      profile.end(stream);
      std::this_thread::sleep_for(std::chrono::microseconds(500));
    }
    ASSIGN_OR_RETURN(times[group.rank()], profile.finish(stream, group));
    // What was finished does not come again.
    ASSIGN_OR_RETURN(const std::vector<Times> rest, profile.finish(stream, group));
    EXPECT_EQ(rest, std::vector<Times>(kRanks));
    return Status::ok();
  });
  ASSERT_TRUE(status.is_ok()) << status.message();
  EXPECT_EQ(times[1], times[0]) << "all ranks know all ranks' times";
  EXPECT_EQ(times[2], times[0]);
  ASSERT_EQ(times[0].size(), static_cast<size_t>(kRanks));
  EXPECT_GE(of(times[0][1], Phase::kRouter), 2 * kWorkUs) << "it slept for so long";
  for (const Times& rank : times[0]) {
    EXPECT_GE(of(rank, Phase::kWait), 0);
    EXPECT_EQ(of(rank, Phase::kExperts), 0);
  }
}

TEST(LayerProfile, OfOneMeetingSomebodyDidNotWait) {
  ThreadPool pool(1);
  dist::World world = dist::World::local(4).value();
  std::vector<Times> times;
  const Status status = world.run([&](dist::Communicator& group) -> Status {
    Stream stream(pool);
    LayerProfile profile(stream, [&] { return group.barrier(); });
    RETURN_IF_ERROR(profile.meet(stream, Phase::kCombine));
    profile.end(stream);
    ASSIGN_OR_RETURN(const std::vector<Times> all, profile.finish(stream, group));
    if (group.rank() == 2) times = all;
    return Status::ok();
  });
  ASSERT_TRUE(status.is_ok()) << status.message();
  double least = of(times[0], Phase::kWait);
  for (const Times& rank : times) least = std::min(least, of(rank, Phase::kWait));
  EXPECT_EQ(least, 0);
}

TEST(LayerProfile, PassesOnThatAMeetingFailed) {
  ThreadPool pool(1);
  Stream stream(pool);
  LayerProfile profile(stream, [] { return Status::aborted("a peer is gone"); });
  EXPECT_EQ(profile.meet(stream, Phase::kCombine).message(), "a peer is gone");
}

TEST(LayerProfile, NamesEveryPhaseOnce) {
  std::set<std::string_view> names;
  for (int phase = 0; phase < kNumPhases; ++phase) {
    names.insert(phase_name(static_cast<Phase>(phase)));
  }
  EXPECT_EQ(names.size(), static_cast<size_t>(kNumPhases));
}

// A layer over four ranks, with and without a profile.
struct LayerRun {
  std::vector<std::vector<float>> y;  // [ranks]
  std::vector<Times> times;           // with a profile
};

constexpr int kRanks = 4, kTopK = 3, kTokens = 9;

Result<std::unique_ptr<MoeLayer>> make_layer(const MoeShape& shape, const PackedExperts& own,
                                             int first_expert, dist::TensorGroup& tensors,
                                             WideEp* wide_ep) {
  if (wide_ep != nullptr) {
    return std::unique_ptr<MoeLayer>(
        std::make_unique<WideEpLayer>(WideEpLayer::Options{shape, wide_ep, 0, own.weights(), {}}));
  }
  // Two chunks.
  return std::unique_ptr<MoeLayer>(std::make_unique<ConventionalLayer>(ConventionalLayer::Options{
      shape, first_expert, own.weights(), &tensors, kRanks * kTokens / 2}));
}

LayerRun run(bool is_wide_ep, bool is_profiled) {
  Random random(5);
  const Experts experts(random, 8, 16, 8);
  const eplb::Shape slots = {.num_experts = 8, .num_slots = is_wide_ep ? 12 : 8, .num_ranks = 4};
  std::vector<int> placed(8);
  std::iota(placed.begin(), placed.end(), 0);
  if (is_wide_ep) placed = eplb::random_slots(random, slots);
  std::vector<Tokens> tokens;
  for (int rank = 0; rank < kRanks; ++rank) tokens.emplace_back(random, experts, kTokens, kTopK);
  const MoeShape shape = {experts.hidden, experts.intermediate, kTopK};
  const std::vector<int> dp_tokens(kRanks, kTokens);
  LayerRun outcome;
  outcome.y.resize(kRanks);
  ThreadPool pool(2);
  dist::World world = dist::World::local(kRanks).value();
  const Status status = world.run([&](dist::Communicator& group) -> Status {
    const int each = slots.slots_per_rank(), rank = group.rank();
    const auto first = placed.begin() + rank * each;
    const PackedExperts own(experts, {first, first + each}, 0, experts.intermediate);
    Stream stream(pool);
    ASSIGN_OR_RETURN(const auto tensors, dist::TensorGroup::create(group, stream));
    WideEpOptions options;
    options.shape = slots;
    options.layers = {3};
    options.slots = {placed};
    options.max_num_tokens = kRanks * kTokens;
    options.all_to_all.num_slots = slots.num_slots;
    options.all_to_all.top_k = kTopK;
    options.all_to_all.hidden_size = experts.hidden;
    options.all_to_all.max_tokens = kRanks * kTokens;
    std::vector<std::byte> scratch(1 << 20);
    std::vector<float>& y = outcome.y[rank];
    y.assign(static_cast<size_t>(kTokens) * experts.hidden, NAN);
    std::unique_ptr<WideEp> wide_ep;
    if (is_wide_ep) {
      wide_ep = std::make_unique<WideEp>(options);
      RETURN_IF_ERROR(wide_ep->start(group, {own.bytes()}));
    }
    ASSIGN_OR_RETURN(const auto layer,
                     make_layer(shape, own, rank * each, *tensors, wide_ep.get()));
    LayerProfile profile(stream, [&] { return group.barrier(); });
    if (is_profiled) layer->set_profile(&profile);
    Arena arena(scratch);
    RETURN_IF_ERROR(layer->forward(stream, arena,
                                   {matrix_view(tokens[rank].x.data(), kTokens, experts.hidden),
                                    tokens[rank].ids.data(), tokens[rank].weights.data()},
                                   dp_tokens, matrix_view(y.data(), kTokens, experts.hidden)));
    profile.end(stream);
    ASSIGN_OR_RETURN(const std::vector<Times> times, profile.finish(stream, group));
    if (rank == 0) outcome.times = times;
    return Status::ok();
  });
  EXPECT_TRUE(status.is_ok()) << status.message();
  return outcome;
}

TEST(LayerProfile, ChangesNoBitAndFindsThePhasesOfEachBackend) {
  for (const bool is_wide_ep : {false, true}) {
    SCOPED_TRACE(is_wide_ep ? "WideEP" : "CUTLASS");
    const LayerRun plain = run(is_wide_ep, false);
    const LayerRun profiled = run(is_wide_ep, true);
    EXPECT_EQ(profiled.y, plain.y);
    for (const Times& times : plain.times) EXPECT_EQ(times, Times{}) << "nobody asked for times";
    ASSERT_EQ(profiled.times.size(), static_cast<size_t>(kRanks));
    for (const Times& times : profiled.times) {
      for (const Phase phase : {Phase::kDispatch, Phase::kExperts, Phase::kCombine}) {
        EXPECT_GT(of(times, phase), 0) << phase_name(phase);
      }
      EXPECT_EQ(of(times, Phase::kSplit) > 0, is_wide_ep);
      EXPECT_EQ(of(times, Phase::kCounts) > 0, is_wide_ep);
      EXPECT_EQ(of(times, Phase::kRouter), 0) << "no part of the layer";
    }
  }
}

}  // namespace
}  // namespace wideep::moe
