#include "moe/moe_layer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/buffer.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "dist/world.h"
#include "moe/router.h"

namespace wideep::moe {
namespace {

std::vector<float> random_values(Random& random, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(2 * random.uniform() - 1);
  return values;
}

// All experts of a layer, unpacked.
struct Experts {
  Experts(Random& random, int num_experts_in, int hidden_in, int intermediate_in)
      : num_experts(num_experts_in), hidden(hidden_in), intermediate(intermediate_in) {
    for (int e = 0; e < num_experts; ++e) {
      gate_up.push_back(random_values(random, int64_t{2} * intermediate * hidden));
      down.push_back(random_values(random, int64_t{hidden} * intermediate));
    }
  }

  int num_experts;
  int hidden;
  int intermediate;
  std::vector<std::vector<float>> gate_up;  // [2 * intermediate, hidden]
  std::vector<std::vector<float>> down;     // [hidden, intermediate]
};

// Tokens of one rank.
struct Tokens {
  Tokens(Random& random, const Experts& experts, int count_in, int top_k_in)
      : count(count_in),
        top_k(top_k_in),
        x(random_values(random, int64_t{count} * experts.hidden)) {
    for (int i = 0; i < count * top_k; ++i) {
      ids.push_back(static_cast<int32_t>(random.below(experts.num_experts)));
      weights.push_back(static_cast<float>(random.uniform()));
    }
  }

  int count;
  int top_k;
  std::vector<float> x;  // [count, hidden]
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

// The layer's definition in double.
std::vector<double> oracle(const Experts& experts, const Tokens& tokens, bool scales_input) {
  const int hidden = experts.hidden;
  std::vector<double> y(static_cast<size_t>(tokens.count) * hidden);
  for (int pair = 0; pair < tokens.count * tokens.top_k; ++pair) {
    const int token = pair / tokens.top_k;
    const int expert = tokens.ids[pair];
    const double weight = tokens.weights[pair];
    const auto project = [&](int row) {
      double sum = 0;
      for (int i = 0; i < hidden; ++i) {
        sum += (scales_input ? weight : 1) * tokens.x[token * hidden + i] *
               experts.gate_up[expert][row * hidden + i];
      }
      return sum;
    };
    for (int j = 0; j < experts.intermediate; ++j) {
      const double gate = project(j);
      const double activated = gate / (1 + std::exp(-gate)) * project(experts.intermediate + j);
      for (int o = 0; o < hidden; ++o) {
        y[token * hidden + o] += (scales_input ? 1 : weight) * activated *
                                 experts.down[expert][o * experts.intermediate + j];
      }
    }
  }
  return y;
}

// The part of the experts that one rank holds, packed.
class RankExperts {
 public:
  RankExperts(const Experts& experts, int begin, int end, int first_column, int last_column) {
    const int columns = last_column - first_column;
    const int hidden = experts.hidden;
    for (int e = begin; e < end; ++e) {
      std::vector<float> gate_up;
      for (const int half : {0, experts.intermediate}) {
        const float* rows = experts.gate_up[e].data() + (half + first_column) * hidden;
        gate_up.insert(gate_up.end(), rows, rows + columns * hidden);
      }
      std::vector<float> down;
      for (int o = 0; o < hidden; ++o) {
        const float* row = experts.down[e].data() + o * experts.intermediate;
        down.insert(down.end(), row + first_column, row + last_column);
      }
      gate_up_.push_back(pack(gate_up, 2 * columns, hidden));
      down_.push_back(pack(down, hidden, columns));
    }
    weights_ = {begin, gate_up_, down_};
  }

  const ExpertWeights& weights() const { return weights_; }

 private:
  kernels::PackedWeight pack(const std::vector<float>& rows, int out, int in) {
    memory_.push_back(Buffer::allocate(kernels::packed_weight_bytes(out, in, DType::kF32)).value());
    kernels::pack_weight_rows(matrix_view(rows.data(), out, in), 0, out, DType::kF32,
                              memory_.back().data());
    return {memory_.back().data(), DType::kF32, out, in};
  }

  std::vector<Buffer> memory_;
  std::vector<kernels::PackedWeight> gate_up_;
  std::vector<kernels::PackedWeight> down_;
  ExpertWeights weights_;
};

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
  const RankExperts own(experts, experts.num_experts * ep_rank / split.moe_ep,
                        experts.num_experts * (ep_rank + 1) / split.moe_ep,
                        experts.intermediate * tp_rank / split.moe_tp,
                        experts.intermediate * (tp_rank + 1) / split.moe_tp);
  MoeShape shape;
  shape.hidden_size = experts.hidden;
  shape.intermediate_size = experts.intermediate * (tp_rank + 1) / split.moe_tp -
                            experts.intermediate * tp_rank / split.moe_tp;
  shape.top_k = tokens.top_k;
  shape.weight_scales_input = scales_input;
  const MoeLayer layer(shape, own.weights(), split.attention_dp ? &world : nullptr,
                       split.max_num_tokens);

  const int max_rows =
      dp_tokens.empty() ? tokens.count : *std::max_element(dp_tokens.begin(), dp_tokens.end());
  const Buffer scratch = Buffer::allocate(layer.scratch_bytes(max_rows) + 1).value();
  Arena arena(scratch.span<std::byte>(layer.scratch_bytes(max_rows)));
  Stream stream(pool);
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

TEST(MoeLayer, EqualsItsDefinitionInEverySplit) {
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

TEST(MoeLayer, TakesAllTokensOnOneExpert) {
  Random random(2);
  const Experts experts(random, 4, 16, 8);
  std::vector<Tokens> tokens;
  for (int rank = 0; rank < 4; ++rank) {
    tokens.emplace_back(random, experts, 9, 2);
    std::fill(tokens.back().ids.begin(), tokens.back().ids.end(), 3);
  }
  expect_oracle(experts, {1, 4, true}, tokens, false);
}

TEST(MoeLayer, GivesTheSameBitsAgain) {
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
