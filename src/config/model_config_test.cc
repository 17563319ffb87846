#include "config/model_config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "config/model_config_testing.h"

namespace wideep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelConfig parsed(const Json& json) {
  Result<ModelConfig> model = parse_model_config(json.dump(), "config.json");
  EXPECT_TRUE(model.is_ok()) << model.status().message();
  return model.is_ok() ? *std::move(model) : ModelConfig();
}

std::string refusal(const Json& json) {
  const Result<ModelConfig> model = parse_model_config(json.dump(), "config.json");
  EXPECT_FALSE(model.is_ok());
  return model.status().message();
}

Json changed(Json json, const char* key, const Json& value) {
  json[key] = value;
  return json;
}

TEST(ModelConfig, DeepSeekR1) {
  const ModelConfig model = parsed(deepseek_r1_json());
  EXPECT_EQ(model.family, ModelFamily::kDeepSeekV3);
  EXPECT_EQ(model.hidden_size, 7168);
  EXPECT_EQ(model.num_layers, 61);
  EXPECT_EQ(model.num_mtp_layers, 1);
  EXPECT_EQ(model.moe_layers.size(), 58u);
  EXPECT_EQ(model.moe_layers.front(), 3);
  EXPECT_EQ(model.moe_layers.back(), 60);
  EXPECT_EQ(model.moe.num_experts, 256);
  EXPECT_EQ(model.moe.top_k, 8);
  EXPECT_EQ(model.moe.intermediate_size, 2048);
  EXPECT_EQ(model.moe.shared_intermediate_size, 2048);
  EXPECT_EQ(model.moe.scoring, Scoring::kSigmoid);
  EXPECT_EQ(model.moe.n_group, 8);
  EXPECT_EQ(model.moe.topk_group, 4);
  EXPECT_DOUBLE_EQ(model.moe.routed_scaling_factor, 2.5);
  ASSERT_TRUE(model.mla);
  EXPECT_EQ(model.mla->q_lora_rank, 1536);
  EXPECT_EQ(model.head_dim, 192);
  EXPECT_EQ(model.rope.type, RopeType::kYarn);
  EXPECT_TRUE(model.rope.interleaved);
  EXPECT_DOUBLE_EQ(model.rope.factor, 40);
  EXPECT_EQ(model.rope.mscale_all_dim, 1.0);
  ASSERT_TRUE(model.fp8_block);
  EXPECT_EQ(model.fp8_block->rows, 128);
  EXPECT_THAT(model.eos_token_ids, ElementsAre(1));
}

TEST(ModelConfig, Qwen3) {
  const ModelConfig large = parsed(qwen3_235b_json());
  EXPECT_EQ(large.family, ModelFamily::kQwen3Moe);
  EXPECT_EQ(large.num_layers, 94);
  EXPECT_EQ(large.moe_layers.size(), 94u);
  EXPECT_EQ(large.moe.num_experts, 128);
  EXPECT_EQ(large.moe.shared_intermediate_size, 0);
  EXPECT_TRUE(large.moe.norm_topk_prob);
  EXPECT_EQ(large.num_key_value_heads, 4);
  EXPECT_EQ(large.head_dim, 128);
  EXPECT_FALSE(large.rope.interleaved);
  EXPECT_DOUBLE_EQ(large.rope.theta, 1e6);
  EXPECT_FALSE(large.fp8_block);

  Json json = qwen3_235b_json();  // 30B-A3B
  json.update({{"hidden_size", 2048},
               {"num_hidden_layers", 48},
               {"num_attention_heads", 32},
               {"moe_intermediate_size", 768},
               {"mlp_only_layers", {0, 5}},
               {"decoder_sparse_step", 2}});
  json.erase("norm_topk_prob");
  const ModelConfig small = parsed(json);
  EXPECT_FALSE(small.moe.norm_topk_prob) << "the class's default";
  EXPECT_EQ(small.head_dim, 128) << "not hidden_size / heads";
  EXPECT_EQ(small.moe_layers.size(), 23u) << "odd layers, without 5";
  EXPECT_THAT(std::vector<int>(small.moe_layers.begin(), small.moe_layers.begin() + 3),
              ElementsAre(1, 3, 7));
}

TEST(ModelConfig, Llama4) {
  const ModelConfig maverick = parsed(llama4_maverick_json());
  EXPECT_EQ(maverick.family, ModelFamily::kLlama4);
  EXPECT_TRUE(maverick.is_nested_text);
  EXPECT_EQ(maverick.moe.num_experts, 128);
  EXPECT_EQ(maverick.moe.top_k, 1);
  EXPECT_EQ(maverick.moe.intermediate_size, 8192);
  EXPECT_EQ(maverick.moe.shared_intermediate_size, 8192);
  EXPECT_EQ(maverick.intermediate_size, 16384);
  EXPECT_EQ(maverick.moe_layers.size(), 24u);
  EXPECT_EQ(maverick.moe_layers.front(), 1);
  EXPECT_THAT(maverick.eos_token_ids, ElementsAre(200001, 200007, 200008));
  ASSERT_TRUE(maverick.llama4);
  EXPECT_TRUE(maverick.llama4->attn_temperature_tuning) << "given as 4";
  EXPECT_FALSE(maverick.llama4->use_qk_norm);
  const auto& rope = maverick.llama4->uses_rope;
  EXPECT_TRUE(rope[0] && rope[1] && rope[2]);
  EXPECT_FALSE(rope[3]);

  Json json = llama4_maverick_json();  // Scout
  json["text_config"].update({{"num_local_experts", 16},
                              {"interleave_moe_layer_step", 1},
                              {"use_qk_norm", true},
                              {"rope_scaling",
                               {{"factor", 16.0},
                                {"high_freq_factor", 1.5},
                                {"low_freq_factor", 1.0},
                                {"original_max_position_embeddings", 8192},
                                {"rope_type", "llama3"}}}});
  const ModelConfig scout = parsed(json);
  EXPECT_EQ(scout.moe_layers.size(), 48u);
  EXPECT_EQ(scout.rope.type, RopeType::kLlama3);
  EXPECT_DOUBLE_EQ(scout.rope.factor, 16);
  EXPECT_EQ(scout.rope.original_max_position_embeddings, 8192);
}

TEST(ModelConfig, ReadsWhatStandsOutsideOfTextConfig) {
  Json json = llama4_maverick_json();
  json["text_config"].erase("eos_token_id");
  json["eos_token_id"] = 7;
  json["tie_word_embeddings"] = true;
  json["torch_dtype"] = "float16";
  const ModelConfig outside = parsed(json);
  EXPECT_THAT(outside.eos_token_ids, ElementsAre(7));
  EXPECT_TRUE(outside.tie_word_embeddings);
  EXPECT_EQ(outside.type, ModelType::kFp16);
  json["text_config"]["tie_word_embeddings"] = false;
  json["text_config"]["eos_token_id"] = 8;
  EXPECT_FALSE(parsed(json).tie_word_embeddings) << "the text's own comes first";
  EXPECT_THAT(parsed(json).eos_token_ids, ElementsAre(8));
}

TEST(ModelConfig, YarnOfQwen3) {
  Json json = qwen3_235b_json();
  json["rope_scaling"] = {
      {"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}};
  EXPECT_EQ(parsed(json).rope.type, RopeType::kYarn);
  EXPECT_EQ(parsed(json).rope.attention_factor, std::nullopt);
  json["rope_scaling"]["attention_factor"] = 1.25;
  EXPECT_EQ(parsed(json).rope.attention_factor, 1.25);
  json["rope_scaling"]["attention_factor"] = 0;
  EXPECT_THAT(refusal(json), HasSubstr("attention_factor: 0: must be more than 0"));
}

TEST(ModelConfig, ReadsNewSpellings) {
  Json json = deepseek_r1_json();
  json["rope_parameters"] = json["rope_scaling"];
  json["rope_parameters"]["rope_theta"] = 20000;
  json["rope_parameters"]["rope_type"] = "yarn";
  json["num_mtp_layers"] = 2;
  json["dtype"] = "float32";
  for (const char* old :
       {"rope_scaling", "rope_theta", "torch_dtype", "num_nextn_predict_layers"}) {
    json.erase(old);
  }
  json["eos_token_id"] = {1, 2};
  const ModelConfig model = parsed(json);
  EXPECT_DOUBLE_EQ(model.rope.theta, 20000);
  EXPECT_EQ(model.rope.type, RopeType::kYarn);
  EXPECT_EQ(model.num_mtp_layers, 2);
  EXPECT_EQ(model.type, ModelType::kFp32);
  EXPECT_THAT(model.eos_token_ids, ElementsAre(1, 2));

  Json qwen = qwen3_235b_json();
  qwen["num_local_experts"] = qwen["num_experts"];
  qwen.erase("num_experts");
  EXPECT_EQ(parsed(qwen).moe.num_experts, 128);
}

TEST(ModelConfig, RefusesUnknownArchitectures) {
  EXPECT_EQ(refusal({{"architectures", {"DeepseekV2ForCausalLM"}}}),
            "config.json: architectures: DeepseekV2ForCausalLM: must be one of "
            "DeepseekV3ForCausalLM, Qwen3MoeForCausalLM, Llama4ForCausalLM, "
            "Llama4ForConditionalGeneration (did you mean \"DeepseekV3ForCausalLM\"?)");
  EXPECT_THAT(refusal(Json::object()), HasSubstr("must be a list with one name"));
  EXPECT_THAT(refusal({{"architectures", {1}}}), HasSubstr("must be a list with one name"));
  EXPECT_THAT(refusal(Json::array()), HasSubstr("must be an object"));
}

TEST(ModelConfig, ReportsAllViolationsAtOnce) {
  Json json = deepseek_r1_json();
  json.erase("vocab_size");
  json["hidden_size"] = "7168";
  json["num_experts_per_tok"] = 200;
  json["rope_scaling"]["type"] = "longrope";
  json["quantization_config"]["weight_block_size"] = {128};
  json["norm_topk_prob"] = "yes";
  EXPECT_EQ(refusal(json),
            "config.json: vocab_size: missing: must be integer 1 to 16777216\n"
            "config.json: hidden_size: \"7168\": must be integer 1 to 1048576\n"
            "config.json: rope_scaling.type: \"longrope\": must be default, yarn or llama3\n"
            "config.json: quantization_config.weight_block_size: a list of 1: must be the rows and "
            "columns of a block\n"
            "config.json: num_experts_per_tok: 200: must be integer 1 to 22\n"
            "config.json: norm_topk_prob: \"yes\": must be true or false");
}

TEST(ModelConfig, ChecksSizesAgainstEachOther) {
  const auto message = [](const char* key, const Json& value) {
    return refusal(changed(deepseek_r1_json(), key, value));
  };
  EXPECT_THAT(message("n_routed_experts", 1025), HasSubstr("integer 1 to 1024"));
  EXPECT_THAT(message("n_group", 128), HasSubstr("n_group: 128: must be integer 1 to 64"));
  EXPECT_THAT(message("n_group", 7), HasSubstr("must divide the 256 experts"));
  EXPECT_THAT(message("topk_group", 9), HasSubstr("must be at most n_group 8"));
  EXPECT_THAT(message("first_k_dense_replace", 61), HasSubstr("no layer of the model is an MoE"));
  EXPECT_THAT(message("scoring_func", "softmax"), HasSubstr("must be sigmoid"));
  EXPECT_THAT(message("topk_method", "greedy"), HasSubstr("must be noaux_tc"));
  EXPECT_THAT(message("moe_layer_freq", 2), HasSubstr("must be 1"));
  EXPECT_THAT(message("hidden_act", "gelu"), HasSubstr("must be silu"));
  EXPECT_THAT(message("rms_norm_eps", 0), HasSubstr("must be more than 0"));
  EXPECT_THAT(message("quantization_config", {{"quant_method", "awq"}}), HasSubstr("must be fp8"));
  EXPECT_THAT(message("torch_dtype", "int8"), HasSubstr("bfloat16, float16 or float32"));
  EXPECT_THAT(message("hidden_size", 1e30), HasSubstr("must be integer"));
  EXPECT_THAT(message("eos_token_id", {1, -1}), HasSubstr("must be a list of integers"));
  EXPECT_THAT(refusal(changed(qwen3_235b_json(), "num_key_value_heads", 7)),
              HasSubstr("must divide the 64 attention heads"));
  Json llama = llama4_maverick_json();
  llama["text_config"]["no_rope_layers"] = {1, 0};
  EXPECT_THAT(refusal(llama), HasSubstr("text_config.no_rope_layers: a list of 2: must have 48"));
  llama["text_config"]["no_rope_layers"] = Json::array();
  llama["text_config"]["moe_layers"] = {1, 3, 3};
  EXPECT_THAT(refusal(llama), HasSubstr("must not name a layer twice"));
}

TEST(ModelConfig, ReadsTheModelsOfThisProject) {
  const std::string root = WIDEEP_SOURCE_DIR;
  const Result<ModelConfig> dsv3 = read_model_config(root + "/models/dsv3-tiny");
  ASSERT_TRUE(dsv3.is_ok()) << dsv3.status().message();
  EXPECT_EQ(dsv3->family, ModelFamily::kDeepSeekV3);
  EXPECT_THAT(dsv3->moe_layers, ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(dsv3->num_mtp_layers, 0);
  EXPECT_EQ(dsv3->mla->q_lora_rank, 256);
  EXPECT_EQ(dsv3->rope.original_max_position_embeddings, 4096);

  const Result<ModelConfig> qwen3 = read_model_config(root + "/tests/models/qwen3-moe-random");
  ASSERT_TRUE(qwen3.is_ok()) << qwen3.status().message();
  EXPECT_EQ(qwen3->family, ModelFamily::kQwen3Moe);
  EXPECT_THAT(qwen3->moe_layers, ElementsAre(0, 2));
  EXPECT_EQ(qwen3->moe.num_experts, 16);
  EXPECT_DOUBLE_EQ(qwen3->rope.theta, 1e6);
  EXPECT_THAT(qwen3->eos_token_ids, ElementsAre());

  const Result<ModelConfig> llama4 = read_model_config(root + "/tests/models/llama4-random");
  ASSERT_TRUE(llama4.is_ok()) << llama4.status().message();
  EXPECT_EQ(llama4->family, ModelFamily::kLlama4);
  EXPECT_FALSE(llama4->is_nested_text);
  EXPECT_THAT(llama4->moe_layers, ElementsAre(1, 3));
  EXPECT_EQ(llama4->llama4->attention_chunk_size, 64);
  EXPECT_TRUE(llama4->llama4->attn_temperature_tuning);
  EXPECT_DOUBLE_EQ(llama4->llama4->floor_scale, 32);
  EXPECT_THAT(llama4->llama4->uses_rope, ElementsAre(true, true, true, false));
}

TEST(ModelConfig, MissingFile) {
  EXPECT_EQ(read_model_config("/nonexistent").status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace wideep
