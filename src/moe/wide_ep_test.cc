#include "moe/wide_ep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <thread>
#include <vector>

#include "base/thread_pool.h"
#include "dist/world.h"
#include "eplb/eplb_testing.h"
#include "eplb/evaluate.h"
#include "moe/conventional_layer.h"
#include "moe/moe_testing.h"
#include "moe/wide_ep_layer.h"

namespace wideep::moe {
namespace {

using alltoall::Transport;
using eplb::ReplicaChoice;
using eplb::Shape;
using testing::HasSubstr;

// One MoE layer on an EP group; placements may change while it runs.
struct LayerCase {
  WideEpOptions options;
  MoeShape shape;
  std::vector<Tokens> tokens;  // [ranks]
  int corrupt_rank = -1;       // has other experts in its table than the others say

  std::vector<int> dp_tokens() const {
    std::vector<int> counts;
    for (const Tokens& own : tokens) counts.push_back(own.count);
    return counts;
  }
};

LayerCase make_case(Random& random, const Experts& experts, const Shape& shape, int top_k,
                    const std::vector<int>& counts) {
  LayerCase made;
  made.shape.hidden_size = experts.hidden;
  made.shape.intermediate_size = experts.intermediate;
  made.shape.top_k = top_k;
  for (const int count : counts) made.tokens.emplace_back(random, experts, count, top_k);
  made.options.shape = shape;
  made.options.layers = {3};
  made.options.slots = {eplb::random_slots(random, shape)};
  const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{1});
  made.options.max_num_tokens = total;
  made.options.all_to_all.num_slots = shape.num_slots;
  made.options.all_to_all.top_k = top_k;
  made.options.all_to_all.hidden_size = experts.hidden;
  made.options.all_to_all.max_tokens = total + shape.num_ranks;
  return made;
}

// Called on every rank before an iteration; may sleep.
using Before = std::function<void(int rank, int iteration)>;

struct Outcome {
  Status status;
  std::vector<std::vector<float>> y;     // [ranks], of the last iteration
  std::vector<std::vector<int>> slots;   // [ranks] of the layer in the end
  std::vector<IterationReport> reports;  // [iterations] of rank 0
};

Status run_rank(const LayerCase& made, const Experts& experts, int iterations, ThreadPool& pool,
                const Before& before, dist::Communicator& group, Outcome& outcome) {
  const int rank = group.rank(), slots_per_rank = made.options.shape.slots_per_rank();
  const auto first = made.options.slots[0].begin() + rank * slots_per_rank;
  const PackedExperts own(experts, {first, first + slots_per_rank}, 0, experts.intermediate);
  WideEpOptions options = made.options;
  if (rank == made.corrupt_rank) std::swap(options.slots[0].front(), options.slots[0].back());
  WideEp wide_ep(options);
  wide_ep.observe();
  RETURN_IF_ERROR(wide_ep.start(group, {own.bytes()}));
  WideEpLayer layer({made.shape, &wide_ep, 0, own.weights(), {}});

  const std::vector<int> dp_tokens = made.dp_tokens();
  const int64_t bytes = layer.scratch_bytes(*std::ranges::max_element(dp_tokens));
  const Buffer scratch = Buffer::allocate(bytes + 1).value();
  Arena arena(scratch.span<std::byte>(bytes));
  Stream stream(pool);
  const Tokens& tokens = made.tokens[rank];
  std::vector<float>& y = outcome.y[rank];
  std::vector<RankState> states(static_cast<size_t>(group.size()));
  for (int i = 0; i < iterations; ++i) {
    // The planner has answered the iterations before, so that a test sees the same in every run.
    const bool is_online = options.layer_updates_per_iter > 0;
    while (is_online && wide_ep.state().num_planned < i - 1) std::this_thread::yield();
    const RankState state = wide_ep.state();
    RETURN_IF_ERROR(group.all_gather(std::as_bytes(std::span(&state, 1)),
                                     std::as_writable_bytes(std::span(states))));
    if (before) before(rank, i);
    RETURN_IF_ERROR(wide_ep.begin_iteration(states));
    y.assign(static_cast<size_t>(tokens.count) * experts.hidden, NAN);
    RETURN_IF_ERROR(layer.forward(stream, arena,
                                  {matrix_view(tokens.x.data(), tokens.count, experts.hidden),
                                   tokens.ids.data(), tokens.weights.data()},
                                  dp_tokens, matrix_view(y.data(), tokens.count, experts.hidden)));
    if (rank == 0) outcome.reports.push_back(wide_ep.report());
  }
  const auto slots = wide_ep.slots(0);
  outcome.slots[rank].assign(slots.begin(), slots.end());
  return Status::ok();
}

Outcome run(const LayerCase& made, const Experts& experts, int iterations = 1,
            const Before& before = {}) {
  Outcome outcome;
  const int ranks = made.options.shape.num_ranks;
  outcome.y.resize(static_cast<size_t>(ranks));
  outcome.slots.resize(static_cast<size_t>(ranks));
  ThreadPool pool(2);
  dist::World world = dist::World::local(ranks).value();
  outcome.status = world.run([&](dist::Communicator& group) {
    return run_rank(made, experts, iterations, pool, before, group, outcome);
  });
  return outcome;
}

// What one rank with all experts computes for the tokens of each rank.
std::vector<std::vector<float>> one_rank(const LayerCase& made, const Experts& experts) {
  std::vector<int> ids(static_cast<size_t>(experts.num_experts));
  std::iota(ids.begin(), ids.end(), 0);
  const PackedExperts all(experts, ids, 0, experts.intermediate);
  ConventionalLayer layer({made.shape, 0, all.weights(), nullptr, 1 << 20});
  ThreadPool pool(1);
  Stream stream(pool);
  std::vector<std::vector<float>> results;
  for (const Tokens& tokens : made.tokens) {
    const int64_t bytes = layer.scratch_bytes(tokens.count);
    const Buffer scratch = Buffer::allocate(bytes + 1).value();
    Arena arena(scratch.span<std::byte>(bytes));
    std::vector<float>& y = results.emplace_back(tokens.x.size());
    EXPECT_TRUE(layer
                    .forward(stream, arena,
                             {matrix_view(tokens.x.data(), tokens.count, experts.hidden),
                              tokens.ids.data(), tokens.weights.data()},
                             {}, matrix_view(y.data(), tokens.count, experts.hidden))
                    .is_ok());
  }
  return results;
}

void expect_same_bits(const std::vector<std::vector<float>>& y,
                      const std::vector<std::vector<float>>& expected) {
  for (size_t rank = 0; rank < y.size(); ++rank) {
    ASSERT_EQ(y[rank].size(), expected[rank].size());
    for (size_t i = 0; i < y[rank].size(); ++i) {
      ASSERT_EQ(y[rank][i], expected[rank][i]) << "rank " << rank << ", element " << i;
    }
  }
}

void expect_near(const LayerCase& made, const Experts& experts,
                 const std::vector<std::vector<float>>& y) {
  for (size_t rank = 0; rank < y.size(); ++rank) {
    const std::vector<double> expected =
        oracle(experts, made.tokens[rank], made.shape.weight_scales_input);
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(y[rank][i], expected[i], 1e-3) << "rank " << rank << ", element " << i;
    }
  }
}

LayerCase random_case(Random& random, const Experts& experts, const Shape& shape) {
  std::vector<int> counts;
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    counts.push_back(random.below(4) == 0 ? 0 : static_cast<int>(random.below(17)));
  }
  const int top_k = 1 + static_cast<int>(random.below(4));
  LayerCase made = make_case(random, experts, shape, top_k, counts);
  made.shape.weight_scales_input = made.options.all_to_all.weight_scales_input =
      random.below(3) == 0;
  made.options.replica_choice = static_cast<ReplicaChoice>(random.below(3));
  made.options.all_to_all.transport = static_cast<Transport>(random.below(4));
  if (random.below(2) == 1) made.options.max_num_tokens = 1 + static_cast<int>(random.below(20));
  return made;
}

// Exact: the bits of one rank, whatever the placement, the replicas, the chunks and the transport.
TEST(WideEp, ExactGivesTheBitsOfOneRank) {
  Random random(1);
  for (int round = 0; round < 60; ++round) {
    SCOPED_TRACE(testing::Message() << "round " << round);
    const Shape shape = eplb::random_shape(random, 9, 4);
    const Experts experts(random, shape.num_experts, 8 + static_cast<int>(random.below(20)),
                          1 + static_cast<int>(random.below(12)));
    LayerCase made = random_case(random, experts, shape);
    made.options.all_to_all.combine = CombineMode::kExact;
    const Outcome outcome = run(made, experts);
    ASSERT_TRUE(outcome.status.is_ok()) << outcome.status.message();
    expect_same_bits(outcome.y, one_rank(made, experts));
    made.options.all_to_all.combine = CombineMode::kReduced;
    expect_near(made, experts, run(made, experts).y);
  }
}

// Every iteration the layer gets another random placement; its output never changes.
TEST(WideEp, MigrationsDoNotShow) {
  Random random(2);
  for (int round = 0; round < 10; ++round) {
    SCOPED_TRACE(testing::Message() << "round " << round);
    const Shape shape = {.num_experts = 10, .num_slots = 15, .num_ranks = 5};
    const Experts experts(random, shape.num_experts, 16, 8);
    LayerCase made = random_case(random, experts, shape);
    made.options.all_to_all.combine = CombineMode::kExact;
    made.options.layer_updates_per_iter = 1;
    made.options.max_transfers_per_iter = 1 + static_cast<int>(random.below(3));
    made.options.forced = [&](int, int64_t iteration, std::span<const int>) {
      Random shuffled(17, {static_cast<uint64_t>(iteration)});
      return eplb::random_slots(shuffled, shape);
    };
    const std::vector<std::vector<float>> expected = one_rank(made, experts);
    const Outcome outcome = run(made, experts, 40);
    ASSERT_TRUE(outcome.status.is_ok()) << outcome.status.message();
    expect_same_bits(outcome.y, expected);
    int commits = 0;
    for (const IterationReport& report : outcome.reports) commits += report.migration.commits;
    EXPECT_GE(commits, 10);
    for (const auto& slots : outcome.slots) EXPECT_EQ(slots, outcome.slots[0]);
  }
}

// Counts of hot experts arrive, the balancer answers, the imbalance falls.
TEST(WideEp, BalancesWhatItSees) {
  Random random(3);
  const Shape shape = {.num_experts = 16, .num_slots = 20, .num_ranks = 4};
  const Experts experts(random, shape.num_experts, 8, 4);
  LayerCase made = make_case(random, experts, shape, 2, {64, 64, 64, 64});
  made.options.slots = {eplb::default_assignment(shape)};
  for (Tokens& tokens : made.tokens) {
    // Two hot experts on rank 0, half of all tokens.
    for (size_t i = 0; i < tokens.ids.size(); i += 2) tokens.ids[i] = static_cast<int>(i / 2 % 2);
  }
  made.options.layer_updates_per_iter = 1;
  made.options.max_transfers_per_iter = 4;
  made.options.online.plan.max_transfers = 4;
  const Outcome outcome = run(made, experts, 60);
  ASSERT_TRUE(outcome.status.is_ok()) << outcome.status.message();
  EXPECT_GT(outcome.reports.front().layers[0].imbalance, 0.4);
  EXPECT_LT(outcome.reports.back().layers[0].imbalance, 0.05);
  EXPECT_GT(outcome.reports.back().layers[0].unbalanced, 0.4);
  expect_near(made, experts, outcome.y);
}

TEST(WideEp, NamesTheRankWhosePlacementDiffers) {
  Random random(4);
  const Shape shape = {.num_experts = 6, .num_slots = 6, .num_ranks = 3};
  const Experts experts(random, shape.num_experts, 8, 4);
  LayerCase made = make_case(random, experts, shape, 2, {3, 4, 5});
  made.options.slots = {{0, 1, 2, 3, 4, 5}};
  made.corrupt_rank = 1;
  const Outcome outcome = run(made, experts, 5);
  EXPECT_EQ(outcome.status.code(), StatusCode::kAborted);
  EXPECT_THAT(outcome.status.message(), HasSubstr("the placement of rank 1 differs"));
}

// A rank that is late before an iteration changes nothing.
TEST(WideEp, WaitsForALateRank) {
  Random random(5);
  const Shape shape = {.num_experts = 6, .num_slots = 8, .num_ranks = 4};
  const Experts experts(random, shape.num_experts, 8, 4);
  LayerCase made = make_case(random, experts, shape, 3, {5, 0, 7, 2});
  made.options.all_to_all.combine = CombineMode::kExact;
  made.options.layer_updates_per_iter = 1;
  made.options.forced = [&](int, int64_t iteration, std::span<const int>) {
    Random shuffled(18, {static_cast<uint64_t>(iteration)});
    return eplb::random_slots(shuffled, shape);
  };
  const Outcome outcome = run(made, experts, 8, [](int rank, int iteration) {
    if (rank == iteration % 4) std::this_thread::sleep_for(std::chrono::milliseconds(30));
  });
  ASSERT_TRUE(outcome.status.is_ok()) << outcome.status.message();
  expect_same_bits(outcome.y, one_rank(made, experts));
}

}  // namespace
}  // namespace wideep::moe
