#include "moe/conventional_layer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/thread_pool.h"
#include "dist/world.h"
#include "moe/moe_testing.h"
#include "moe/router.h"

namespace wideep::moe {
namespace {

struct Split {
  int moe_tp = 1;
  int moe_ep = 1;
  bool attention_dp = false;
  int max_num_tokens = std::numeric_limits<int>::max();

  int ranks() const { return moe_tp * moe_ep; }
};

// Runs one rank of the layer on `tokens` and returns y; with attention TP the sum over ranks.
Result<std::vector<float>> run_rank(const Experts& experts, const Split& split,
                                    const Tokens& tokens, std::span<const int> dp_tokens,
                                    bool scales_input, ThreadPool& pool,
                                    dist::Communicator& world) {
  const int ep_rank = world.rank() % split.moe_ep;
  const int tp_rank = world.rank() / split.moe_ep;
  const int first_expert = experts.num_experts * ep_rank / split.moe_ep;
  std::vector<int> ids(
      static_cast<size_t>(experts.num_experts * (ep_rank + 1) / split.moe_ep - first_expert));
  std::iota(ids.begin(), ids.end(), first_expert);
  const PackedExperts own(experts, ids, experts.intermediate * tp_rank / split.moe_tp,
                          experts.intermediate * (tp_rank + 1) / split.moe_tp);
  MoeShape shape;
  shape.hidden_size = experts.hidden;
  shape.intermediate_size = experts.intermediate * (tp_rank + 1) / split.moe_tp -
                            experts.intermediate * tp_rank / split.moe_tp;
  shape.top_k = tokens.top_k;
  shape.weight_scales_input = scales_input;
  Stream stream(pool);
  ASSIGN_OR_RETURN(const auto group, dist::TensorGroup::create(world, stream));
  ConventionalLayer layer({shape, first_expert, own.weights(),
                           split.attention_dp ? group.get() : nullptr, split.max_num_tokens});

  const int max_rows =
      dp_tokens.empty() ? tokens.count : *std::max_element(dp_tokens.begin(), dp_tokens.end());
  const Buffer scratch = Buffer::allocate(layer.scratch_bytes(max_rows) + 1).value();
  Arena arena(scratch.span<std::byte>(layer.scratch_bytes(max_rows)));
  std::vector<float> y(static_cast<size_t>(tokens.count) * experts.hidden, NAN);
  const MoeInput input = {matrix_view(tokens.x.data(), tokens.count, experts.hidden),
                          tokens.ids.data(), tokens.weights.data()};
  RETURN_IF_ERROR(layer.forward(stream, arena, input, dp_tokens,
                                matrix_view(y.data(), tokens.count, experts.hidden)));
  if (!split.attention_dp) RETURN_IF_ERROR(world.all_reduce_sum(std::span<float>(y)));
  return y;
}

// Every rank's tokens (with attention TP all have rank 0's) through the layer, against the oracle.
void expect_oracle(const Experts& experts, const Split& split, const std::vector<Tokens>& tokens,
                   bool scales_input) {
  std::vector<int> dp_tokens;
  if (split.attention_dp) {
    for (const Tokens& own : tokens) dp_tokens.push_back(own.count);
  }
  ThreadPool pool(2);
  dist::World world = dist::World::local(split.ranks()).value();
  std::vector<std::vector<float>> results(static_cast<size_t>(split.ranks()));
  const Status status = world.run([&](dist::Communicator& communicator) -> Status {
    const int rank = communicator.rank();
    ASSIGN_OR_RETURN(results[rank], run_rank(experts, split, tokens[split.attention_dp ? rank : 0],
                                             dp_tokens, scales_input, pool, communicator));
    return Status::ok();
  });
  ASSERT_TRUE(status.is_ok()) << status.message();
  for (int rank = 0; rank < split.ranks(); ++rank) {
    const std::vector<double> expected =
        oracle(experts, tokens[split.attention_dp ? rank : 0], scales_input);
    ASSERT_EQ(results[rank].size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(results[rank][i], expected[i], 1e-3) << "rank " << rank << ", element " << i;
    }
  }
}

TEST(ConventionalLayer, EqualsItsDefinitionInEverySplit) {
  Random random(1);
  for (int round = 0; round < 40; ++round) {
    Split split;
    split.moe_tp = 1 + static_cast<int>(random.below(3));
    split.moe_ep = 1 + static_cast<int>(random.below(4));
    split.attention_dp = random.below(2) == 1;
    if (random.below(2) == 1) split.max_num_tokens = 1 + static_cast<int>(random.below(20));
    const int num_experts = split.moe_ep + static_cast<int>(random.below(9));
    const Experts experts(random, num_experts, 8 + static_cast<int>(random.below(20)),
                          split.moe_tp + static_cast<int>(random.below(12)));
    const int top_k = 1 + static_cast<int>(random.below(4));
    std::vector<Tokens> tokens;
    for (int rank = 0; rank < split.ranks(); ++rank) {
      // No tokens at all on some ranks.
      const int count = random.below(4) == 0 ? 0 : static_cast<int>(random.below(17));
      tokens.emplace_back(random, experts, count, top_k);
    }
    SCOPED_TRACE(testing::Message()
                 << "round " << round << ": moe_tp " << split.moe_tp << ", moe_ep " << split.moe_ep
                 << ", attention DP " << split.attention_dp << ", at most " << split.max_num_tokens
                 << " tokens");
    expect_oracle(experts, split, tokens, round % 2 == 1);
  }
}

TEST(ConventionalLayer, TakesAllTokensOnOneExpert) {
  Random random(2);
  const Experts experts(random, 4, 16, 8);
  std::vector<Tokens> tokens;
  for (int rank = 0; rank < 4; ++rank) {
    tokens.emplace_back(random, experts, 9, 2);
    std::fill(tokens.back().ids.begin(), tokens.back().ids.end(), 3);
  }
  expect_oracle(experts, {1, 4, true}, tokens, false);
}

TEST(ConventionalLayer, GivesTheSameBitsAgain) {
  Random random(3);
  const Experts experts(random, 6, 16, 8);
  const Tokens tokens(random, experts, 33, 3);
  std::vector<float> first;
  for (const int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    dist::World world = dist::World::local(1).value();
    std::vector<float> y;
    ASSERT_TRUE(world
                    .run([&](dist::Communicator& communicator) -> Status {
                      ASSIGN_OR_RETURN(
                          y, run_rank(experts, {}, tokens, {}, false, pool, communicator));
                      return Status::ok();
                    })
                    .is_ok());
    if (first.empty()) first = y;
    EXPECT_EQ(std::memcmp(first.data(), y.data(), y.size() * sizeof(float)), 0);
  }
}

// Scores by hand: the router is a gate and a rule, and the rule's test is the op's.
TEST(Router, ChoosesByTheGate) {
  MoeModelConfig config;
  config.num_experts = 3;
  config.top_k = 2;
  config.scoring = Scoring::kSoftmax;
  config.norm_topk_prob = true;
  const std::vector<float> gate = {1, 0, 0, 1, 1, 1};  // [3, 2]
  const Buffer packed = Buffer::allocate(kernels::packed_weight_bytes(3, 2, DType::kF32)).value();
  kernels::pack_weight_rows(matrix_view(gate.data(), 3, 2), 0, 3, DType::kF32, packed.data());
  const kernels::PackedWeight weight = {packed.data(), DType::kF32, 3, 2};
  const Router router(config, weight, nullptr);

  ThreadPool pool(1);
  Stream stream(pool);
  const std::vector<float> x = {2, 1, -1, 3};  // logits 2 1 3, and -1 3 2
  std::vector<float> logits(6);
  std::vector<int32_t> ids(4);
  std::vector<float> weights(4);
  router.forward(stream, matrix_view(x.data(), 2, 2),
                 {matrix_view(logits.data(), 2, 3), ids.data(), weights.data()});
  EXPECT_THAT(ids, testing::ElementsAre(2, 0, 1, 2));
  const float larger = 1 / (1 + std::exp(-1.0F));
  EXPECT_THAT(weights, testing::ElementsAre(testing::FloatNear(larger, 1e-6F),
                                            testing::FloatNear(1 - larger, 1e-6F),
                                            testing::FloatNear(larger, 1e-6F),
                                            testing::FloatNear(1 - larger, 1e-6F)));
}

}  // namespace
}  // namespace wideep::moe
