#include "models/moe_bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>

#include "base/thread_pool.h"
#include "config/mapping.h"
#include "dist/groups.h"
#include "dist/world.h"
#include "models/models_testing.h"

namespace wideep::models {
namespace {

using testing::HasSubstr;

constexpr int kRanks = 4, kTokens = 12, kLayers = 2;

EngineConfig engine_of(MoeBackend backend, std::optional<BalancerConfig> balancer) {
  EngineConfig engine;
  engine.parallel.tensor_parallel_size = kRanks;
  engine.parallel.moe_expert_parallel_size = kRanks;
  engine.parallel.enable_attention_dp = true;
  engine.max_num_tokens = kTokens;
  engine.moe.backend = backend;
  engine.moe.load_balancer = std::move(balancer);
  return engine;
}

// Measures on each rank; results are of rank 0, but for y, which is of all.
struct Outcome {
  Status status;
  MoeBenchResult result;
  std::vector<std::vector<float>> y;
};

Outcome measure(const EngineConfig& engine, const std::function<int32_t(int pair)>& expert_of,
                int num_layers = kLayers, int64_t available_bytes = 0) {
  ModelConfig model = tiny_deepseek();
  model.moe.shared_intermediate_size = 0;
  MoeBenchInput input;
  input.tokens = kTokens;
  input.warmup = 40;
  input.settle = true;
  input.calls = 3;
  std::vector<int32_t> ids;
  for (int pair = 0; pair < kTokens * model.moe.top_k; ++pair) ids.push_back(expert_of(pair));
  input.batches.assign(2, std::vector(kLayers, ids));

  Outcome outcome;
  outcome.y.resize(kRanks);
  ThreadPool pool(2);
  dist::World world = dist::World::local(kRanks).value();
  outcome.status = world.run([&](dist::Communicator& communicator) -> Status {
    ASSIGN_OR_RETURN(const Mapping mapping, Mapping::create(engine.parallel));
    ASSIGN_OR_RETURN(dist::Groups groups, dist::make_groups(mapping, communicator));
    const auto source = make_dummy_weights(model);
    Stream stream(pool);
    ModelOptions options;
    options.config = &model;
    options.engine = &engine;
    options.mapping = &mapping;
    options.groups = &groups;
    options.source = source.get();
    options.weight_dtype = DType::kF32;
    options.available_bytes = available_bytes;
    ASSIGN_OR_RETURN(const auto bench, MoeBench::create(stream, options, num_layers));
    ASSIGN_OR_RETURN(MoeBenchResult result, bench->measure(input));
    outcome.y[communicator.rank()] = result.y;
    if (communicator.rank() == 0) outcome.result = std::move(result);
    return Status::ok();
  });
  return outcome;
}

// Of token t its k-th expert: neighbours, so that all experts have the same rows.
int32_t spread(int pair) {
  return pair % 16;
}
// All of the first rank.
int32_t crowded(int pair) {
  return pair % 4;
}

BalancerConfig balancer_of(int num_slots, int layer_updates_per_iter) {
  BalancerConfig balancer;
  balancer.num_slots = num_slots;
  balancer.layer_updates_per_iter = layer_updates_per_iter;
  return balancer;
}

void expect_complete(const MoeBenchResult& result) {
  EXPECT_EQ(result.us.size(), 3U);
  for (const double us : result.us) EXPECT_GT(us, 0);
  ASSERT_EQ(result.phases.size(), static_cast<size_t>(kRanks));
  for (const auto& times : result.phases) {
    for (const moe::Phase phase :
         {moe::Phase::kRouter, moe::Phase::kDispatch, moe::Phase::kExperts, moe::Phase::kCombine}) {
      EXPECT_GT(times[static_cast<size_t>(phase)], 0) << moe::phase_name(phase);
    }
    EXPECT_GE(times[static_cast<size_t>(moe::Phase::kWait)], 0);
  }
}

void expect_near(const Outcome& outcome, const Outcome& expected) {
  for (int rank = 0; rank < kRanks; ++rank) {
    ASSERT_EQ(outcome.y[rank].size(), static_cast<size_t>(kTokens * 48));
    ASSERT_EQ(outcome.y[rank].size(), expected.y[rank].size());
    for (size_t i = 0; i < outcome.y[rank].size(); ++i) {
      ASSERT_NEAR(outcome.y[rank][i], expected.y[rank][i], 1e-4);
    }
  }
}

TEST(MoeBench, BackendsComputeTheSameAndSeeTheSameRows) {
  const Outcome conventional = measure(engine_of(MoeBackend::kCutlass, {}), crowded);
  ASSERT_TRUE(conventional.status.is_ok()) << conventional.status.message();
  expect_complete(conventional.result);
  EXPECT_DOUBLE_EQ(conventional.result.imbalance, kRanks - 1.0);
  double largest = 0;
  for (const float value : conventional.y[0]) largest = std::max<double>(largest, std::abs(value));
  EXPECT_GT(largest, 0.1) << "an output to compare";

  const Outcome wide_ep = measure(engine_of(MoeBackend::kWideEp, {}), crowded);
  ASSERT_TRUE(wide_ep.status.is_ok()) << wide_ep.status.message();
  expect_complete(wide_ep.result);
  EXPECT_DOUBLE_EQ(wide_ep.result.imbalance, kRanks - 1.0);
  EXPECT_EQ(wide_ep.result.transfers, 0);
  expect_near(wide_ep, conventional);

  // Every expert on each rank, and every batch split evenly.
  BalancerConfig everywhere = balancer_of(64, 0);
  for (const int layer : {1, 2}) {
    for (int slot = 0; slot < 64; ++slot) {
      everywhere.initial_global_assignments[layer].push_back(slot % 16);
    }
  }
  const Outcome planned = measure(engine_of(MoeBackend::kWideEp, everywhere), crowded);
  ASSERT_TRUE(planned.status.is_ok()) << planned.status.message();
  EXPECT_DOUBLE_EQ(planned.result.imbalance, 0);
  expect_near(planned, conventional);
}

TEST(MoeBench, EvenRowsAreBalanced) {
  const Outcome outcome = measure(engine_of(MoeBackend::kCutlass, {}), spread);
  ASSERT_TRUE(outcome.status.is_ok()) << outcome.status.message();
  EXPECT_DOUBLE_EQ(outcome.result.imbalance, 0);
}

// Its warm-up waits for the planner, so the placement is there when calls are timed.
TEST(MoeBench, TheOnlineBalancerHasActedBeforeCallsAreTimed) {
  BalancerConfig balancer = balancer_of(24, 2);
  const EngineConfig engine = engine_of(MoeBackend::kWideEp, balancer);
  const Outcome outcome = measure(engine, crowded);
  ASSERT_TRUE(outcome.status.is_ok()) << outcome.status.message();
  EXPECT_GT(outcome.result.transfers, 0);
  EXPECT_LT(outcome.result.imbalance, 0.5);
  expect_near(outcome, measure(engine_of(MoeBackend::kCutlass, {}), crowded));
}

TEST(MoeBench, RefusesMoreLayersOrMemoryThanThereIs) {
  const EngineConfig engine = engine_of(MoeBackend::kCutlass, {});
  const Outcome layers = measure(engine, spread, 3);
  EXPECT_EQ(layers.status.code(), StatusCode::kInvalidInput);
  EXPECT_THAT(layers.status.message(), HasSubstr("--layers 3: the model has 2 MoE layers"));
  const Outcome memory = measure(engine, spread, 2, 1000);
  EXPECT_EQ(memory.status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(memory.status.message(), HasSubstr("the weights of 2 layers"));
}

}  // namespace
}  // namespace wideep::models
