#include "config/model_config.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"
#include "base/json.h"
#include "config/json_fields.h"
#include "config/limits.h"

namespace wideep {
namespace {

// Larger sizes are mistakes, and products of two still fit an int64_t.
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxPositions = 1 << 30;

struct Architecture {
  const char* name;
  ModelFamily family;
};
constexpr Architecture kArchitectures[] = {
    {"DeepseekV3ForCausalLM", ModelFamily::kDeepSeekV3},
    {"Qwen3MoeForCausalLM", ModelFamily::kQwen3Moe},
    {"Llama4ForCausalLM", ModelFamily::kLlama4},
    {"Llama4ForConditionalGeneration", ModelFamily::kLlama4},
};

int width(const JsonFields& fields, const char* key) {
  return fields.integer(key, 1, kMaxWidth);
}

// `now` where it is there, else `before`.
const char* spelling(const JsonFields& fields, const char* now, const char* before) {
  return fields.has(now) ? now : before;
}

ModelType read_type(const JsonFields& fields) {
  const char* key = spelling(fields, "dtype", "torch_dtype");
  const std::string name = fields.string(key, "bfloat16");
  if (name == "bfloat16") return ModelType::kBf16;
  if (name == "float16") return ModelType::kFp16;
  if (name == "float32") return ModelType::kFp32;
  fields.fail(key, "must be bfloat16, float16 or float32");
  return ModelType::kBf16;
}

RopeType read_rope_type(const JsonFields& scaling) {
  const char* key = spelling(scaling, "rope_type", "type");
  const std::string name = scaling.string(key, "default");
  if (name == "default") return RopeType::kDefault;
  if (name == "yarn") return RopeType::kYarn;
  if (name == "llama3") return RopeType::kLlama3;
  scaling.fail(key, "must be default, yarn or llama3");
  return RopeType::kDefault;
}

RopeConfig read_rope(const JsonFields& fields, const std::string& name, const std::string& prefix,
                     Violations& violations) {
  RopeConfig rope;
  rope.theta = fields.number("rope_theta", rope.theta);
  const char* key = spelling(fields, "rope_parameters", "rope_scaling");
  const Json* json = fields.object(key);
  if (json != nullptr) {
    const JsonFields scaling(*json, name, fmt::format("{}{}.", prefix, key), violations);
    rope.theta = scaling.number("rope_theta", rope.theta);
    rope.type = read_rope_type(scaling);
    if (rope.type != RopeType::kDefault) {
      rope.factor = scaling.number("factor", 0);
      if (rope.factor < 1) scaling.fail("factor", "must be a number >= 1");
      rope.original_max_position_embeddings =
          scaling.integer("original_max_position_embeddings", 1, kMaxPositions);
    }
    rope.beta_fast = scaling.number("beta_fast", rope.beta_fast);
    rope.beta_slow = scaling.number("beta_slow", rope.beta_slow);
    if (scaling.has("mscale")) rope.mscale = scaling.number("mscale", 1);
    if (scaling.has("mscale_all_dim")) rope.mscale_all_dim = scaling.number("mscale_all_dim", 0);
    if (scaling.has("attention_factor")) {
      rope.attention_factor = scaling.number("attention_factor", 1);
      if (*rope.attention_factor <= 0) scaling.fail("attention_factor", "must be more than 0");
    }
    rope.low_freq_factor = scaling.number("low_freq_factor", rope.low_freq_factor);
    rope.high_freq_factor = scaling.number("high_freq_factor", rope.high_freq_factor);
    if (rope.type == RopeType::kLlama3 && rope.high_freq_factor <= rope.low_freq_factor) {
      scaling.fail("high_freq_factor", "must be more than low_freq_factor");
    }
  }
  if (rope.theta <= 1) fields.fail("rope_theta", "must be more than 1");
  return rope;
}

std::optional<Fp8Block> read_quantization(const JsonFields& fields, const std::string& name,
                                          Violations& violations) {
  const Json* json = fields.object("quantization_config");
  if (json == nullptr) return std::nullopt;
  const JsonFields quant(*json, name, "quantization_config.", violations);
  if (quant.string("quant_method", "") != "fp8") {
    quant.fail("quant_method", "must be fp8, or no quantization_config at all");
    return std::nullopt;
  }
  if (quant.string("fmt", "e4m3") != "e4m3") quant.fail("fmt", "must be e4m3");
  if (quant.string("activation_scheme", "dynamic") != "dynamic") {
    quant.fail("activation_scheme", "must be dynamic");
  }
  const auto block = quant.integers("weight_block_size", 1, 4096);
  if (!block || block->size() != 2) {
    quant.fail("weight_block_size", "must be the rows and columns of a block");
    return Fp8Block{};
  }
  return Fp8Block{(*block)[0], (*block)[1]};
}

void read_moe_sizes(const JsonFields& fields, const char* experts, ModelConfig& model) {
  model.moe.num_experts = fields.integer(experts, 1, kMaxExperts);
  model.moe.top_k = fields.integer("num_experts_per_tok", 1, kMaxTopK);
  if (model.moe.top_k > model.moe.num_experts) {
    fields.fail("num_experts_per_tok",
                fmt::format("must be at most the {} experts", model.moe.num_experts));
  }
}

void read_grouped_heads(const JsonFields& fields, ModelConfig& model) {
  model.num_key_value_heads =
      fields.integer("num_key_value_heads", 1, kMaxWidth, model.num_attention_heads);
  if (model.num_attention_heads % model.num_key_value_heads != 0) {
    fields.fail("num_key_value_heads",
                fmt::format("must divide the {} attention heads", model.num_attention_heads));
  }
  model.head_dim = fields.integer("head_dim", 1, kMaxWidth,
                                  std::max(1, model.hidden_size / model.num_attention_heads));
}

void read_deepseek(const JsonFields& fields, ModelConfig& model) {
  read_moe_sizes(fields, "n_routed_experts", model);
  MoeModelConfig& moe = model.moe;
  model.intermediate_size = width(fields, "intermediate_size");
  moe.intermediate_size = width(fields, "moe_intermediate_size");
  moe.shared_intermediate_size =
      moe.intermediate_size * fields.integer("n_shared_experts", 0, 64, 0);
  moe.scoring = Scoring::kSigmoid;
  if (fields.string("scoring_func", "sigmoid") != "sigmoid") {
    fields.fail("scoring_func", "must be sigmoid");
  }
  if (fields.string("topk_method", "noaux_tc") != "noaux_tc") {
    fields.fail("topk_method", "must be noaux_tc");
  }
  moe.n_group = fields.integer("n_group", 1, kMaxGroups, 1);
  moe.topk_group = fields.integer("topk_group", 1, kMaxGroups, 1);
  if (moe.num_experts % moe.n_group != 0) {
    fields.fail("n_group", fmt::format("must divide the {} experts", moe.num_experts));
  } else if (moe.topk_group > moe.n_group) {
    fields.fail("topk_group", fmt::format("must be at most n_group {}", moe.n_group));
  } else if (moe.top_k > moe.topk_group * (moe.num_experts / moe.n_group)) {
    fields.fail("num_experts_per_tok",
                fmt::format("must be at most the {} experts of topk_group {} groups",
                            moe.topk_group * (moe.num_experts / moe.n_group), moe.topk_group));
  }
  moe.norm_topk_prob = fields.boolean("norm_topk_prob", true);
  moe.routed_scaling_factor = fields.number("routed_scaling_factor", 1);
  MlaConfig mla;
  if (fields.has("q_lora_rank")) mla.q_lora_rank = width(fields, "q_lora_rank");
  mla.kv_lora_rank = width(fields, "kv_lora_rank");
  mla.qk_nope_head_dim = width(fields, "qk_nope_head_dim");
  mla.qk_rope_head_dim = width(fields, "qk_rope_head_dim");
  mla.v_head_dim = width(fields, "v_head_dim");
  if (mla.qk_rope_head_dim % 2 != 0) fields.fail("qk_rope_head_dim", "must be even");
  model.mla = mla;
  model.head_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim;
  model.num_key_value_heads = model.num_attention_heads;
  model.rope.interleaved = fields.boolean("rope_interleave", true);
  model.num_mtp_layers =
      fields.integer(spelling(fields, "num_mtp_layers", "num_nextn_predict_layers"), 0, 8, 0);
  if (fields.integer("moe_layer_freq", 1, kMaxLayers, 1) != 1) {
    fields.fail("moe_layer_freq", "must be 1");
  }
  const int dense = fields.integer("first_k_dense_replace", 0, model.num_layers, 0);
  for (int layer = dense; layer < model.num_layers; ++layer) model.moe_layers.push_back(layer);
}

void read_qwen3(const JsonFields& fields, ModelConfig& model) {
  read_moe_sizes(fields, spelling(fields, "num_experts", "num_local_experts"), model);
  read_grouped_heads(fields, model);
  model.intermediate_size = width(fields, "intermediate_size");
  model.moe.intermediate_size = width(fields, "moe_intermediate_size");
  model.moe.scoring = Scoring::kSoftmax;
  model.moe.norm_topk_prob = fields.boolean("norm_topk_prob", false);
  if (fields.boolean("use_sliding_window", false)) {
    fields.fail("use_sliding_window", "must be false");
  }
  const int step = fields.integer("decoder_sparse_step", 1, kMaxLayers, 1);
  const std::vector<int> dense =
      fields.integers("mlp_only_layers", 0, kMaxLayers).value_or(std::vector<int>{});
  for (int layer = 0; layer < model.num_layers; ++layer) {
    const bool is_dense = std::ranges::find(dense, layer) != dense.end();
    if (!is_dense && (layer + 1) % step == 0) model.moe_layers.push_back(layer);
  }
}

// Layers with position: listed (an empty list is none given), or all but every fourth.
std::vector<bool> read_uses_rope(const JsonFields& fields, int num_layers) {
  const auto listed = fields.integers("no_rope_layers", 0, 1);
  std::vector<bool> uses_rope(static_cast<size_t>(num_layers));
  if (listed && !listed->empty()) {
    if (static_cast<int>(listed->size()) != num_layers) {
      fields.fail("no_rope_layers", fmt::format("must have {} entries, one a layer", num_layers));
      return uses_rope;
    }
    for (size_t i = 0; i < listed->size(); ++i) uses_rope[i] = (*listed)[i] != 0;
    return uses_rope;
  }
  const int interval = fields.integer("no_rope_layer_interval", 1, kMaxLayers, 4);
  for (int i = 0; i < num_layers; ++i) uses_rope[static_cast<size_t>(i)] = (i + 1) % interval != 0;
  return uses_rope;
}

void read_llama4(const JsonFields& fields, ModelConfig& model) {
  read_moe_sizes(fields, "num_local_experts", model);
  read_grouped_heads(fields, model);
  model.moe.scoring = Scoring::kSigmoidInput;
  model.moe.intermediate_size = width(fields, "intermediate_size");
  model.moe.shared_intermediate_size = model.moe.intermediate_size;
  model.intermediate_size = width(fields, "intermediate_size_mlp");
  model.rope.interleaved = true;
  Llama4Config llama4;
  llama4.uses_rope = read_uses_rope(fields, model.num_layers);
  llama4.attention_chunk_size = fields.integer("attention_chunk_size", 1, kMaxPositions, 8192);
  llama4.use_qk_norm = fields.boolean("use_qk_norm", true);
  llama4.attn_temperature_tuning = fields.boolean("attn_temperature_tuning", true);
  llama4.floor_scale = fields.number("floor_scale", llama4.floor_scale);
  llama4.attn_scale = fields.number("attn_scale", llama4.attn_scale);
  if (llama4.floor_scale <= 0) fields.fail("floor_scale", "must be more than 0");
  model.llama4 = std::move(llama4);
  auto listed = fields.integers("moe_layers", 0, model.num_layers - 1);
  if (listed && !listed->empty()) {
    std::ranges::sort(*listed);
    if (std::ranges::adjacent_find(*listed) != listed->end()) {
      fields.fail("moe_layers", "must not name a layer twice");
    }
    model.moe_layers = *std::move(listed);
    return;
  }
  const int step = fields.integer("interleave_moe_layer_step", 1, kMaxLayers, 1);
  for (int layer = step - 1; layer < model.num_layers; layer += step) {
    model.moe_layers.push_back(layer);
  }
}

// What all families have.
void read_common(const JsonFields& fields, const std::string& name, const std::string& prefix,
                 Violations& violations, ModelConfig& model) {
  model.vocab_size = fields.integer("vocab_size", 1, 1 << 24);
  model.hidden_size = width(fields, "hidden_size");
  model.num_layers = fields.integer("num_hidden_layers", 1, kMaxLayers - 8);
  model.num_attention_heads = fields.integer("num_attention_heads", 1, 1 << 14);
  model.max_position_embeddings = fields.integer("max_position_embeddings", 1, kMaxPositions);
  model.rms_norm_eps = fields.number("rms_norm_eps", model.rms_norm_eps);
  if (model.rms_norm_eps <= 0) fields.fail("rms_norm_eps", "must be more than 0");
  model.attention_bias = fields.boolean("attention_bias", false);
  if (fields.string("hidden_act", "silu") != "silu") fields.fail("hidden_act", "must be silu");
  model.rope = read_rope(fields, name, prefix, violations);
}

Result<Architecture> find_architecture(const Json& json, const std::string& name) {
  const auto list = json.find("architectures");
  if (list == json.end() || !list->is_array() || list->size() != 1 || !list->front().is_string()) {
    return Status::invalid_input(
        fmt::format("{}: architectures: must be a list with one name", name));
  }
  const auto& wanted = list->front().get_ref<const std::string&>();
  std::vector<std::string> names;
  for (const Architecture& architecture : kArchitectures) {
    if (wanted == architecture.name) return architecture;
    names.emplace_back(architecture.name);
  }
  return Status::invalid_input(fmt::format("{}: architectures: {}: must be one of {}{}", name,
                                           wanted.substr(0, 60), fmt::join(names, ", "),
                                           did_you_mean(nearest(wanted, names))));
}

}  // namespace

Result<ModelConfig> parse_model_config(std::string_view text, const std::string& name) {
  ASSIGN_OR_RETURN(const Json json, parse_json(text, name));
  if (!json.is_object()) return Status::invalid_input(fmt::format("{}: must be an object", name));
  ASSIGN_OR_RETURN(const Architecture architecture, find_architecture(json, name));

  Violations violations;
  const JsonFields outer(json, name, "", violations);
  const Json* nested = outer.object("text_config");
  const std::string prefix = nested != nullptr ? "text_config." : "";
  const Json& body = nested != nullptr ? *nested : json;
  const JsonFields fields(body, name, prefix, violations);

  ModelConfig model;
  model.family = architecture.family;
  model.architecture = architecture.name;
  model.is_nested_text = nested != nullptr;
  read_common(fields, name, prefix, violations, model);
  // These may stand outside of text_config.
  const bool type_outside = !fields.has("dtype") && !fields.has("torch_dtype");
  model.type = read_type(type_outside ? outer : fields);
  model.tie_word_embeddings =
      (fields.has("tie_word_embeddings") ? fields : outer).boolean("tie_word_embeddings", false);
  model.eos_token_ids = (fields.has("eos_token_id") ? fields : outer).token_ids("eos_token_id");
  model.fp8_block =
      read_quantization(fields.has("quantization_config") ? fields : outer, name, violations);
  if (model.family == ModelFamily::kDeepSeekV3) read_deepseek(fields, model);
  if (model.family == ModelFamily::kQwen3Moe) read_qwen3(fields, model);
  if (model.family == ModelFamily::kLlama4) read_llama4(fields, model);
  if (model.moe_layers.empty()) {
    violations.add(fmt::format("{}: no layer of the model is an MoE layer", name));
  }
  if (!violations.empty()) return violations.status();
  return model;
}

Result<ModelConfig> read_model_config(const std::string& path) {
  const std::string file = is_directory(path) ? join_path(path, "config.json") : path;
  ASSIGN_OR_RETURN(const std::string text, read_file(file, int64_t{16} << 20));
  return parse_model_config(text, file);
}

}  // namespace wideep
