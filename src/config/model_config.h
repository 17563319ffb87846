// A checkpoint's config.json: the sizes and rules of the three families that this project runs.
// Reads the spellings of old and new transformers (rope_theta + rope_scaling or rope_parameters,
// torch_dtype or dtype, num_experts or num_local_experts) and Llama 4's nested text_config.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace wideep {

enum class ModelFamily { kDeepSeekV3, kQwen3Moe, kLlama4 };

enum class ModelType { kBf16, kFp16, kFp32 };

enum class RopeType { kDefault, kYarn, kLlama3 };

struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000;
  bool interleaved = false;  // pairs (2i, 2i+1); else (i, i + dim/2)
  double factor = 1;         // yarn, llama3: how far the context is stretched
  int original_max_position_embeddings = 0;
  double beta_fast = 32;                 // yarn: rotations below which a frequency is left alone
  double beta_slow = 1;                  // yarn: rotations above which it is stretched in full
  std::optional<double> mscale;          // yarn
  std::optional<double> mscale_all_dim;  // yarn: enters DeepSeek's softmax scale
  // yarn: multiplies cos and sin; null: mscale's quotient, or 0.1 ln(factor) + 1 without mscale.
  std::optional<double> attention_factor;
  double low_freq_factor = 1;   // llama3
  double high_freq_factor = 4;  // llama3
};

// Weights in FP8 e4m3 with one scale for each block of this shape.
struct Fp8Block {
  int rows = 128;
  int columns = 128;
};

// DeepSeek's multi-head latent attention.
struct MlaConfig {
  std::optional<int> q_lora_rank;  // null: queries are projected at once
  int kv_lora_rank = 0;
  int qk_nope_head_dim = 0;
  int qk_rope_head_dim = 0;
  int v_head_dim = 0;
};

enum class Scoring {
  kSigmoid,       // DeepSeek-V3: of the logits, choice by score + bias
  kSoftmax,       // Qwen3: over all experts
  kSigmoidInput,  // Llama 4: of the chosen logits, and it scales the expert's input
};

struct MoeModelConfig {
  int num_experts = 0;               // routed experts of a layer
  int top_k = 0;                     // experts of a token
  int intermediate_size = 0;         // columns of an expert
  int shared_intermediate_size = 0;  // columns of the shared expert; 0: there is none
  Scoring scoring = Scoring::kSoftmax;
  int n_group = 1;                   // DeepSeek: groups of experts,
  int topk_group = 1;                // of which so many may be chosen from
  bool norm_topk_prob = false;       // weights of a token sum to 1
  double routed_scaling_factor = 1;  // and are multiplied by this
};

struct Llama4Config {
  std::vector<bool> uses_rope;   // [num_layers]; layers without: full attention, no position
  int attention_chunk_size = 0;  // layers with rope see their own chunk only
  bool use_qk_norm = false;
  bool attn_temperature_tuning = false;
  double floor_scale = 8192;
  double attn_scale = 0.1;
};

struct ModelConfig {
  ModelFamily family = ModelFamily::kDeepSeekV3;
  std::string architecture;     // as in "architectures"
  bool is_nested_text = false;  // tensors are named "language_model.*"
  int vocab_size = 0;
  int hidden_size = 0;
  int intermediate_size = 0;  // columns of a dense layer
  int num_layers = 0;         // decoder layers without MTP
  int num_mtp_layers = 0;     // layers num_layers, num_layers + 1, ...: MoE layers as well
  int num_attention_heads = 0;
  int num_key_value_heads = 0;  // with MLA: num_attention_heads
  int head_dim = 0;             // of queries and keys; with MLA nope + rope
  int max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  bool attention_bias = false;
  bool tie_word_embeddings = false;
  ModelType type = ModelType::kBf16;
  std::vector<int> eos_token_ids;  // empty: not given
  RopeConfig rope;
  std::optional<Fp8Block> fp8_block;  // null: weights have `type`
  MoeModelConfig moe;
  std::vector<int> moe_layers;         // ascending, without MTP; the others are dense
  std::optional<MlaConfig> mla;        // DeepSeek
  std::optional<Llama4Config> llama4;  // Llama 4
};

// Reads `folder`/config.json, or the file where the path is one. Every violation at once, a line
// each: "path: key: value: rule".
Result<ModelConfig> read_model_config(const std::string& path);
// The same from memory; `name` stands for the file in messages.
Result<ModelConfig> parse_model_config(std::string_view json, const std::string& name);

}  // namespace wideep
