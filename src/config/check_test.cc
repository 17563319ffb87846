#include "config/check.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "config/model_config_testing.h"

namespace wideep {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

ModelConfig model_of(const Json& json) {
  Result<ModelConfig> model = parse_model_config(json.dump(), "config.json");
  CHECK(model.is_ok());
  return *std::move(model);
}

// DeepSeek-R1 on 36 ranks with 288 slots and no assignments: passes.
EngineConfig wide_ep() {
  EngineConfig config;
  config.parallel.tensor_parallel_size = 36;
  config.parallel.moe_expert_parallel_size = 36;
  config.parallel.enable_attention_dp = true;
  config.moe.backend = MoeBackend::kWideEp;
  config.moe.load_balancer = BalancerConfig{.num_slots = 288, .layer_updates_per_iter = 2};
  return config;
}

// Slot j holds expert j mod experts.
std::vector<int> cyclic(int slots, int experts) {
  std::vector<int> assignment(static_cast<size_t>(slots));
  for (int j = 0; j < slots; ++j) assignment[static_cast<size_t>(j)] = j % experts;
  return assignment;
}

std::string refusal(const EngineConfig& config, const ModelConfig* model = nullptr) {
  const Status status = check_engine_config(config, model);
  EXPECT_FALSE(status.is_ok());
  return status.message();
}

class CheckR1 : public ::testing::Test {
 protected:
  // A plan of all MoE layers.
  EngineConfig with_plan() const {
    EngineConfig config = wide_ep();
    for (const int layer : model_.moe_layers) {
      config.moe.load_balancer->initial_global_assignments[layer] = cyclic(288, 256);
    }
    return config;
  }
  const ModelConfig model_ = model_of(deepseek_r1_json());
};

TEST_F(CheckR1, AcceptsWideEpWithAndWithoutPlan) {
  EXPECT_TRUE(check_engine_config(wide_ep(), &model_).is_ok());
  EXPECT_TRUE(check_engine_config(wide_ep()).is_ok());
  EXPECT_TRUE(check_engine_config(with_plan(), &model_).is_ok());
  EXPECT_TRUE(check_engine_config(with_plan()).is_ok());
  EXPECT_TRUE(check_engine_config(EngineConfig(), &model_).is_ok());
}

TEST_F(CheckR1, ABalancerThatCannotActIsAnError) {
  EngineConfig config = wide_ep();
  config.parallel.moe_expert_parallel_size = 1;
  config.parallel.moe_tensor_parallel_size = 36;
  config.parallel.enable_attention_dp = false;
  config.moe.backend = MoeBackend::kCutlass;
  EXPECT_EQ(
      refusal(config),
      "configuration: moe_config.load_balancer: map: cannot act: moe_expert_parallel_size is "
      "1, must be more\n"
      "configuration: moe_config.load_balancer: map: cannot act: enable_attention_dp is false, "
      "must be true\n"
      "configuration: moe_config.load_balancer: map: cannot act: moe_config.backend is "
      "CUTLASS, must be WideEP");
}

TEST_F(CheckR1, WideEpSpreadsWholeExpertsOverAllRanks) {
  EngineConfig config = wide_ep();
  config.parallel.tensor_parallel_size = 32;
  config.parallel.moe_expert_parallel_size = 16;
  EXPECT_EQ(refusal(config, &model_),
            "configuration: moe_expert_parallel_size: 16: must equal tensor_parallel_size 32: "
            "backend WideEP does not slice experts, moe_tensor_parallel_size must be 1");
  config.moe.load_balancer.reset();
  config.parallel.moe_expert_parallel_size = 32;
  config.parallel.enable_attention_dp = false;
  EXPECT_EQ(refusal(config, &model_),
            "configuration: moe_config.backend: WideEP: cannot act: enable_attention_dp is false, "
            "must be true");
  config.parallel.tensor_parallel_size = 1;
  config.parallel.moe_expert_parallel_size = 1;
  EXPECT_TRUE(check_engine_config(config, &model_).is_ok()) << "one rank has all tokens";
}

TEST_F(CheckR1, KeysOfTheOnlineBalancerNeedUpdates) {
  EngineConfig config = wide_ep();
  BalancerConfig& balancer = *config.moe.load_balancer;
  balancer.decay = 0.5;
  balancer.max_transfers_per_iter = 2;
  balancer.min_gain = 0;
  balancer.weight_source = WeightSource::kHost;
  balancer.algorithm = Algorithm::kBalanced;
  EXPECT_TRUE(check_engine_config(config, &model_).is_ok());
  balancer.layer_updates_per_iter = 0;
  balancer.replica_choice = ReplicaChoice::kRoundRobin;
  balancer.combine = CombineMode::kExact;
  const std::string rule = ": cannot act: layer_updates_per_iter is 0, the plan stays as it is";
  const std::string key = "configuration: moe_config.load_balancer.";
  EXPECT_EQ(refusal(config, &model_),
            key + "decay: 0.5" + rule + "\n" + key + "max_transfers_per_iter: 2" + rule + "\n" +
                key + "min_gain: 0" + rule + "\n" + key + "weight_source: host" + rule + "\n" +
                key + "algorithm: balanced" + rule);
}

TEST(Check, AKeyThatCannotActIsRefusedWithItsDefaultToo) {
  const Result<EngineConfig> config = parse_engine_config(
      "tensor_parallel_size: 4\nmoe_expert_parallel_size: 4\nenable_attention_dp: true\n"
      "moe_load_balancer:\n  num_slots: 8\n  decay: 0.95\n",
      "e.yaml");
  EXPECT_EQ(config.status().message(),
            "e.yaml:6: moe_config.load_balancer.decay: 0.95: cannot act: layer_updates_per_iter is "
            "0, the plan stays as it is");
}

TEST_F(CheckR1, SlotsFitRanksAndExperts) {
  const auto with_slots = [&](std::optional<int> slots) {
    EngineConfig config = wide_ep();
    config.moe.load_balancer->num_slots = slots;
    return refusal(config, &model_);
  };
  EXPECT_THAT(with_slots(290), HasSubstr("moe_config.load_balancer.num_slots: 290: must be a "
                                         "multiple of moe_expert_parallel_size 36 (nearest: 288)"));
  EXPECT_THAT(with_slots(252), HasSubstr("must be at least the model's 256 experts"));
  EXPECT_THAT(with_slots(36 * 257), HasSubstr("must be at most 9216"));
  EXPECT_THAT(with_slots(std::nullopt), HasSubstr("must give num_slots"));
}

TEST_F(CheckR1, EveryExpertIsPlacedInEveryLayer) {
  EngineConfig config = with_plan();
  auto& assignments = config.moe.load_balancer->initial_global_assignments;
  assignments[3] = cyclic(288, 255);
  assignments[4][0] = 256;
  assignments[5].pop_back();
  EXPECT_EQ(refusal(config, &model_),
            "configuration: moe_config.load_balancer.initial_global_assignments.3: a list of 288: "
            "every expert must have a slot: 1 of 256 have none, the first is 255\n"
            "configuration: moe_config.load_balancer.initial_global_assignments.4: 256: must be an "
            "expert id of the model, 0 to 255\n"
            "configuration: moe_config.load_balancer.initial_global_assignments.5: a list of 287: "
            "must have num_slots = 288 entries");
  // Without the model, the largest id tells the number of experts.
  EngineConfig blind = with_plan();
  blind.moe.load_balancer->initial_global_assignments[3] = cyclic(288, 255);
  EXPECT_THAT(refusal(blind), HasSubstr("1 of 256 have none, the first is 255"));
}

TEST_F(CheckR1, LayersAreThoseOfTheModel) {
  EngineConfig config = with_plan();
  auto& assignments = config.moe.load_balancer->initial_global_assignments;
  assignments.erase(3);
  assignments.erase(60);
  assignments[2] = cyclic(288, 256);
  assignments[70] = cyclic(288, 256);
  EXPECT_THAT(
      refusal(config, &model_),
      AllOf(HasSubstr("58 layers: must have every MoE layer of the model: missing 3, 60\n"),
            HasSubstr("initial_global_assignments.2: a list of 288: layer 2 of the model is "
                      "not an MoE layer\n"),
            HasSubstr("layer 70 of the model is not an MoE layer")));
}

TEST_F(CheckR1, TheMtpLayerNeedsAPlanWhenItIsUsed) {
  EngineConfig config = with_plan();
  config.speculative = SpeculativeConfig{};
  EXPECT_THAT(refusal(config, &model_),
              HasSubstr("must have layer 61: it is the MTP layer, which speculative_config uses"));
  config.moe.load_balancer->initial_global_assignments[61] = cyclic(288, 256);
  EXPECT_TRUE(check_engine_config(config, &model_).is_ok());
  config.speculative.reset();
  EXPECT_TRUE(check_engine_config(config, &model_).is_ok()) << "a plan may know more than is used";
  const ModelConfig qwen = model_of(qwen3_235b_json());
  EngineConfig other;
  other.speculative = SpeculativeConfig{};
  EXPECT_THAT(refusal(other, &qwen), HasSubstr("cannot act: the model has no MTP layers"));
}

TEST_F(CheckR1, ExpertsDivideWithoutABalancer) {
  EngineConfig config = wide_ep();
  config.moe.load_balancer.reset();
  EXPECT_EQ(refusal(config, &model_),
            "configuration: moe_expert_parallel_size: 36: must divide the model's 256 experts; or "
            "give moe_config.load_balancer with num_slots a multiple of 36, at least 288");
  config.parallel.tensor_parallel_size = 32;
  config.parallel.moe_expert_parallel_size = 32;
  EXPECT_TRUE(check_engine_config(config, &model_).is_ok());
}

TEST_F(CheckR1, SizesDivideTheModel) {
  EngineConfig config;
  config.parallel.tensor_parallel_size = 48;
  config.parallel.moe_expert_parallel_size = 16;
  EXPECT_EQ(refusal(config, &model_),
            "configuration: tensor_parallel_size: 48: must divide the model's 128 attention heads "
            "(or set enable_attention_dp: true)\n"
            "configuration: tensor_parallel_size: 3: must divide the 2048 columns of an "
            "expert");
  config = EngineConfig();
  config.parallel.pipeline_parallel_size = 62;
  EXPECT_THAT(refusal(config, &model_), HasSubstr("62: must be at most the model's 61 layers"));
  config.parallel.pipeline_parallel_size = 2;
  config.parallel.pp_partition = {30, 30};
  EXPECT_THAT(refusal(config, &model_), HasSubstr("must add up to the model's 61 layers"));
  config = EngineConfig();
  config.max_seq_len = 200000;
  EXPECT_THAT(refusal(config, &model_), HasSubstr("at most the model's 163840 positions"));
}

TEST(Check, SettingsThatCannotActAreErrors) {
  const auto message = [](auto change) {
    EngineConfig config;
    change(config);
    return refusal(config);
  };
  EXPECT_THAT(message([](EngineConfig& c) { c.parallel.enable_lm_head_tp_in_adp = true; }),
              HasSubstr("enable_lm_head_tp_in_adp: true: cannot act"));
  EXPECT_THAT(message([](EngineConfig& c) { c.attention_dp.enable_balance = true; }),
              HasSubstr("enable_balance: true: cannot act"));
  EXPECT_THAT(message([](EngineConfig& c) { c.cp.emplace(); }),
              HasSubstr("cannot act: context_parallel_size is 1"));
  EXPECT_THAT(message([](EngineConfig& c) { c.kv_cache.enable_block_reuse = false; }),
              HasSubstr("cannot act: enable_block_reuse is false"));
  EXPECT_THAT(
      message([](EngineConfig& c) { c.cache_transceiver.emplace().kv_transfer_timeout_ms = 5; }),
      HasSubstr("cannot act: cache_transceiver_config.backend is null"));
  EXPECT_THAT(message([](EngineConfig& c) {
                c.moe.backend = MoeBackend::kWideEp;
                c.parallel.tensor_parallel_size = 8;
              }),
              HasSubstr("moe_expert_parallel_size: 1: must equal tensor_parallel_size 8"));
}

TEST(Check, BatchesAndBlocks) {
  const auto message = [](auto change) {
    EngineConfig config;
    change(config);
    return refusal(config);
  };
  EXPECT_THAT(message([](EngineConfig& c) { c.max_num_tokens = 100; }),
              HasSubstr("max_batch_size: 2048: must be at most max_num_tokens 100"));
  EXPECT_THAT(message([](EngineConfig& c) { c.kv_cache.tokens_per_block = 48; }),
              HasSubstr("48: must be a power of two"));
  EXPECT_THAT(message([](EngineConfig& c) {
                c.cuda_graph->batch_sizes = {1, 4096};
              }),
              HasSubstr("4096: cannot act: max_batch_size is 2048"));
  EXPECT_THAT(message([](EngineConfig& c) {
                c.cuda_graph->batch_sizes = {1, 8};
                c.cuda_graph->max_batch_size = 16;
              }),
              HasSubstr("max_batch_size: 16: must equal the largest of batch_sizes, 8"));
  EXPECT_THAT(message([](EngineConfig& c) {
                c.parallel.tensor_parallel_size = 8;
                c.parallel.moe_tensor_parallel_size = 4;
                c.parallel.moe_expert_parallel_size = 4;
              }),
              HasSubstr("4 x moe_expert_parallel_size 4 = 16, must equal tensor_parallel_size 8"));
}

TEST(Check, ViolationsNameTheirPlace) {
  const Result<EngineConfig> config = parse_engine_config(
      "tensor_parallel_size: 4\nenable_attention_dp: true\nmoe_load_balancer:\n  num_slots: 10\n",
      "e.yaml", {.ep = 4});
  EXPECT_EQ(config.status().message(),
            "e.yaml:4: moe_config.load_balancer.num_slots: 10: must be a multiple of "
            "moe_expert_parallel_size 4 (nearest: 12)");
}

}  // namespace
}  // namespace wideep
