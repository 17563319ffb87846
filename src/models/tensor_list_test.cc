#include "models/tensor_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string_view>

#include "models/models_testing.h"

namespace wideep::models {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Not;

int64_t num_parameters(const ModelConfig& model) {
  int64_t sum = 0;
  for (const TensorSpec& spec : tensor_list(model)) {
    int64_t size = 1;
    for (const int64_t dimension : spec.shape) size *= dimension;
    sum += size;
  }
  return sum;
}

std::set<std::string> names(const ModelConfig& model) {
  std::set<std::string> found;
  for (const TensorSpec& spec : tensor_list(model)) {
    EXPECT_TRUE(found.insert(spec.name).second) << spec.name << " twice";
  }
  return found;
}

const TensorSpec& spec_of(const std::vector<TensorSpec>& list, std::string_view name) {
  const auto at = std::ranges::find(list, name, &TensorSpec::name);
  CHECK(at != list.end());
  return *at;
}

// The numbers that the models' publishers give.
TEST(TensorList, CountsThePublishedParameters) {
  EXPECT_EQ(num_parameters(config_of(qwen3_235b_json())), 235'093'634'560);
  Json json = qwen3_235b_json();
  json.update({{"hidden_size", 2048},
               {"num_hidden_layers", 48},
               {"num_attention_heads", 32},
               {"intermediate_size", 6144},
               {"moe_intermediate_size", 768}});
  EXPECT_EQ(num_parameters(config_of(json)), 30'532'122'624) << "30B-A3B";
  EXPECT_NEAR(static_cast<double>(num_parameters(config_of(deepseek_r1_json()))), 671e9, 0.1e9);
  EXPECT_NEAR(static_cast<double>(num_parameters(config_of(llama4_maverick_json()))), 400e9, 1e9);
}

TEST(TensorList, DeepSeekR1) {
  const std::vector<TensorSpec> list = tensor_list(config_of(deepseek_r1_json()));
  // 9 of norms and attention a layer, 3 dense, 2 of the router and 257 experts, and the ends.
  EXPECT_EQ(list.size(), 61u * 9 + 3 * 3 + 58 * (2 + 257 * 3) + 3);
  const TensorSpec& q = spec_of(list, "model.layers.60.self_attn.q_b_proj.weight");
  EXPECT_THAT(q.shape, ElementsAre(128 * 192, 1536));
  EXPECT_TRUE(q.may_be_fp8);
  EXPECT_THAT(spec_of(list, "model.layers.0.self_attn.kv_a_proj_with_mqa.weight").shape,
              ElementsAre(576, 7168));
  EXPECT_THAT(spec_of(list, "model.layers.3.mlp.experts.255.down_proj.weight").shape,
              ElementsAre(7168, 2048));
  EXPECT_FALSE(spec_of(list, "model.layers.3.mlp.gate.weight").may_be_fp8);
  EXPECT_EQ(spec_of(list, "model.layers.3.mlp.gate.e_score_correction_bias").kind,
            TensorKind::kBias);
  EXPECT_FALSE(spec_of(list, "lm_head.weight").is_optional);
}

TEST(TensorList, DeepSeekVariants) {
  EXPECT_THAT(names(tiny_deepseek({{"q_lora_rank", nullptr}})),
              AllOf(Contains("model.layers.0.self_attn.q_proj.weight"),
                    Not(Contains("model.layers.0.self_attn.q_a_proj.weight"))));
  EXPECT_THAT(names(tiny_deepseek({{"n_shared_experts", nullptr}})),
              Not(Contains("model.layers.1.mlp.shared_experts.up_proj.weight")));
  const auto biased = names(tiny_deepseek({{"attention_bias", true}}));
  EXPECT_THAT(biased, AllOf(Contains("model.layers.0.self_attn.q_a_proj.bias"),
                            Contains("model.layers.0.self_attn.kv_a_proj_with_mqa.bias"),
                            Contains("model.layers.0.self_attn.o_proj.bias"),
                            Not(Contains("model.layers.0.self_attn.q_b_proj.bias")),
                            Not(Contains("model.layers.0.self_attn.kv_b_proj.bias"))));
}

TEST(TensorList, Qwen3) {
  const std::vector<TensorSpec> list =
      tensor_list(tiny_qwen3({{"attention_bias", true}, {"tie_word_embeddings", true}}));
  EXPECT_THAT(spec_of(list, "model.layers.1.mlp.up_proj.weight").shape, ElementsAre(56, 48));
  EXPECT_THAT(spec_of(list, "model.layers.2.mlp.experts.5.up_proj.weight").shape,
              ElementsAre(24, 48));
  EXPECT_THAT(spec_of(list, "model.layers.0.self_attn.k_norm.weight").shape, ElementsAre(8));
  EXPECT_THAT(spec_of(list, "model.layers.0.self_attn.v_proj.bias").shape, ElementsAre(16));
  EXPECT_TRUE(spec_of(list, "lm_head.weight").is_optional) << "tied";
}

TEST(TensorList, Llama4) {
  const std::vector<TensorSpec> list = tensor_list(tiny_llama4());
  const std::string layer = "language_model.model.layers.3.feed_forward.";
  EXPECT_THAT(spec_of(list, layer + "experts.gate_up_proj").shape, ElementsAre(6, 48, 2 * 24));
  EXPECT_THAT(spec_of(list, layer + "experts.down_proj").shape, ElementsAre(6, 24, 48));
  EXPECT_THAT(spec_of(list, layer + "router.weight").shape, ElementsAre(6, 48));
  EXPECT_THAT(spec_of(list, layer + "shared_expert.up_proj.weight").shape, ElementsAre(24, 48));
  EXPECT_THAT(spec_of(list, "language_model.model.layers.2.feed_forward.up_proj.weight").shape,
              ElementsAre(56, 48));
  EXPECT_THAT(spec_of(list, "language_model.lm_head.weight").shape, ElementsAre(40, 48));
}

TEST(TensorList, KnowsHarmlessExtras) {
  const ModelConfig deepseek = tiny_deepseek();  // 3 layers, 1 of MTP
  EXPECT_TRUE(is_harmless_extra("model.layers.3.eh_proj.weight", deepseek));
  EXPECT_TRUE(is_harmless_extra("model.layers.0.self_attn.rotary_emb.inv_freq", deepseek));
  EXPECT_FALSE(is_harmless_extra("model.layers.4.eh_proj.weight", deepseek));
  EXPECT_FALSE(is_harmless_extra("model.layers.2.eh_proj.weight", deepseek));
  EXPECT_FALSE(is_harmless_extra("model.layers.x.eh_proj.weight", deepseek));
  EXPECT_FALSE(is_harmless_extra("vision_model.class_embedding", deepseek));
  EXPECT_TRUE(is_harmless_extra("vision_model.class_embedding", tiny_llama4()));
  EXPECT_TRUE(is_harmless_extra("multi_modal_projector.linear_1.weight", tiny_llama4()));
  EXPECT_FALSE(is_harmless_extra("language_model.model.layers.4.x", tiny_llama4()));
}

}  // namespace
}  // namespace wideep::models
