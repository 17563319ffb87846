#include "models/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "models/models_testing.h"

namespace wideep::models {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

// The error of verifying what is written, with "DIR" for its folder.
std::string verdict(const TestCheckpoint& source, const ModelConfig& model) {
  const TemporaryFolder folder;
  source.write(folder, 2);
  const Result<Checkpoint> checkpoint =
      Checkpoint::open(folder.path(), model.fp8_block.value_or(Fp8Block()));
  EXPECT_TRUE(checkpoint.is_ok()) << error_of(checkpoint);
  std::string message = error_of(verify(*checkpoint, model));
  for (size_t at = message.find(folder.path()); at != std::string::npos;
       at = message.find(folder.path())) {
    message.replace(at, folder.path().size(), "DIR");
  }
  return message;
}

TEST(Verify, AcceptsTheModelsOfThisProject) {
  for (const char* name :
       {"/models/dsv3-tiny", "/tests/models/qwen3-moe-random", "/tests/models/llama4-random"}) {
    const std::string folder = std::string(WIDEEP_SOURCE_DIR) + name;
    const Result<ModelConfig> model = read_model_config(folder);
    ASSERT_TRUE(model.is_ok()) << error_of(model);
    const Result<Checkpoint> checkpoint = Checkpoint::open(folder);
    ASSERT_TRUE(checkpoint.is_ok()) << error_of(checkpoint);
    EXPECT_EQ(error_of(verify(*checkpoint, *model)), "");
  }
}

TEST(Verify, AcceptsWhatTheRulesAllow) {
  TestCheckpoint deepseek{tiny_deepseek()};
  deepseek.add("model.layers.3.enorm.weight", DType::kBF16, {48});  // MTP
  deepseek.add("model.layers.1.self_attn.rotary_emb.inv_freq", DType::kF32, {4});
  deepseek.add("model.layers.0.self_attn.o_proj.weight", DType::kBF16, {48, 32});  // not quantised
  deepseek.tensors.erase("model.layers.0.self_attn.o_proj.weight_scale_inv");
  deepseek.add_scales("model.layers.1.self_attn.o_proj.weight", {16, 16}, DType::kBF16);
  EXPECT_EQ(verdict(deepseek, tiny_deepseek()), "");

  const ModelConfig tied = tiny_qwen3({{"tie_word_embeddings", true}});
  TestCheckpoint qwen{tied};
  EXPECT_EQ(verdict(qwen, tied), "") << "a head that is not used";
  qwen.tensors.erase("lm_head.weight");
  EXPECT_EQ(verdict(qwen, tied), "");

  TestCheckpoint llama{tiny_llama4()};
  llama.add("vision_model.class_embedding", DType::kBF16, {8});
  EXPECT_EQ(verdict(llama, tiny_llama4()), "");
}

TEST(Verify, NamesEveryKindOfDamageInOneError) {
  TestCheckpoint source{tiny_deepseek()};
  const std::string layer = "model.layers.1.";
  source.tensors.erase("lm_head.weight");
  source.rename(layer + "mlp.gate.weight", layer + "mlp.router.weight");
  source.tensors.erase(layer + "self_attn.o_proj.weight_scale_inv");
  for (const int expert : {3, 4, 5, 9}) {
    const std::string name = layer + "mlp.experts." + std::to_string(expert) + ".up_proj.weight";
    source.tensors.erase(name);
    source.tensors.erase(name + "_scale_inv");
  }
  source.add("model.norm.weight", DType::kBF16, {47});
  source.add(layer + "self_attn.q_a_proj.weight_scale_inv", DType::kF32, {3, 2});
  source.add(layer + "input_layernorm.weight", DType::kI32, {48});
  source.add(layer + "mlp.gate.e_score_correction_bias", DType::kF8E4M3, {16});
  source.add(layer + "self_attn.q_b_proj.weight", DType::kI8, {48, 20});
  source.tensors.erase(layer + "self_attn.q_b_proj.weight_scale_inv");
  source.add(layer + "self_attn.kv_b_proj.weight_scale_inv", DType::kF16, {4, 2});
  EXPECT_EQ(
      verdict(source, tiny_deepseek()),
      "DIR: model.layers.1.self_attn.o_proj.weight_scale_inv: missing: must be [3, 2]\n"
      "DIR: model.layers.1.mlp.gate.weight: missing: must be [16, 48] "
      "(did you mean \"model.layers.1.mlp.router.weight\"?)\n"
      "DIR: model.layers.1.mlp.experts.{3..5,9}.up_proj.weight: missing: must be [24, 48]\n"
      "DIR: lm_head.weight: missing: must be [40, 48]\n"
      "DIR: model.layers.1.self_attn.q_a_proj.weight_scale_inv: is [3, 2], must be [2, 3]\n"
      "DIR: model.norm.weight: is [47], must be [48]\n"
      "DIR: model.layers.1.input_layernorm.weight: is I32, must be F32, BF16 or F16\n"
      "DIR: model.layers.1.self_attn.q_b_proj.weight: is I8, must be F32, BF16, F16 or F8_E4M3\n"
      "DIR: model.layers.1.self_attn.kv_b_proj.weight_scale_inv: is F16, must be F32 or BF16\n"
      "DIR: model.layers.1.mlp.gate.e_score_correction_bias: is F8_E4M3, must be F32, BF16 or "
      "F16\n"
      "DIR: model.layers.1.mlp.router.weight: is no tensor of the model that config.json "
      "describes");
}

TEST(Verify, RefusesFp8ThatTheConfigDoesNotAnnounce) {
  const TestCheckpoint source{tiny_deepseek()};
  const ModelConfig plain = tiny_deepseek({{"quantization_config", nullptr}});
  EXPECT_THAT(
      verdict(source, plain),
      HasSubstr("DIR: model.layers.0.self_attn.q_a_proj.weight: is F8_E4M3, and config.json "
                "has no quantization_config"));
}

TEST(Verify, CountsWhatIsBeyondTheLinesShown) {
  const ModelConfig large = tiny_qwen3({{"num_hidden_layers", 40}});
  TestCheckpoint source{tiny_qwen3()};
  const std::string message = verdict(source, large);
  // 37 layers of 2 norms, 6 of attention, router and 6 experts; 20 lines, the last being a layer's
  // experts' gates.
  EXPECT_THAT(message, EndsWith(" more tensors missing"));
  EXPECT_EQ(std::ranges::count(message, '\n'), 20);

  TestCheckpoint many{tiny_qwen3()};
  for (int i = 0; i < 30; ++i) many.add("extra." + std::to_string(i), DType::kF32, {1});
  EXPECT_THAT(verdict(many, tiny_qwen3()), EndsWith("DIR: and 10 more tensors too much"));
}

// Another prefix, as when the text part was saved alone: every tensor is missing, each with its
// twin.
TEST(Verify, HintsAtAnotherPrefix) {
  TestCheckpoint source{tiny_llama4()};
  source.rename("language_model.model.norm.weight", "model.norm.weight");
  EXPECT_THAT(verdict(source, tiny_llama4()),
              HasSubstr("DIR: language_model.model.norm.weight: missing: must be [48]"));
  source.rename("language_model.model.layers.0.self_attn.q_proj.weight",
                "model.layers.0.self_attn.q_proj.weight");
  EXPECT_THAT(verdict(source, tiny_llama4()),
              HasSubstr("(did you mean \"model.layers.0.self_attn.q_proj.weight\"?)"));
}

}  // namespace
}  // namespace wideep::models
