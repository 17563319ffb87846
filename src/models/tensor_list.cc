#include "models/tensor_list.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/text.h"

namespace wideep::models {
namespace {

class Lister {
 public:
  explicit Lister(const ModelConfig& model) : model_(model), root_(name_prefix(model)) {}

  std::vector<TensorSpec> list() {
    const int hidden = model_.hidden_size;
    embedding("model.embed_tokens.weight", false);
    for (int layer = 0; layer < model_.num_layers; ++layer) decoder_layer(layer);
    prefix_ = root_;
    norm("model.norm.weight", hidden);
    embedding("lm_head.weight", model_.tie_word_embeddings);
    return std::move(list_);
  }

 private:
  void decoder_layer(int layer) {
    prefix_ = fmt::format("{}model.layers.{}.", root_, layer);
    norm("input_layernorm.weight", model_.hidden_size);
    norm("post_attention_layernorm.weight", model_.hidden_size);
    if (model_.mla) {
      latent_attention();
    } else {
      grouped_attention();
    }
    const bool is_moe = std::ranges::binary_search(model_.moe_layers, layer);
    const char* mlp = model_.family == ModelFamily::kLlama4 ? "feed_forward" : "mlp";
    if (!is_moe) return mlp_of(mlp, model_.intermediate_size);
    switch (model_.family) {
      case ModelFamily::kDeepSeekV3:
        add("mlp.gate.weight", {model_.moe.num_experts, model_.hidden_size}, TensorKind::kLinear);
        bias("mlp.gate.e_score_correction_bias", model_.moe.num_experts);
        listed_experts();
        if (model_.moe.shared_intermediate_size > 0) {
          mlp_of("mlp.shared_experts", model_.moe.shared_intermediate_size);
        }
        break;
      case ModelFamily::kQwen3Moe:
        add("mlp.gate.weight", {model_.moe.num_experts, model_.hidden_size}, TensorKind::kLinear);
        listed_experts();
        break;
      case ModelFamily::kLlama4:
        stacked_experts();
        mlp_of("feed_forward.shared_expert", model_.moe.shared_intermediate_size);
        break;
    }
  }

  void latent_attention() {
    const MlaConfig& mla = *model_.mla;
    const int64_t heads = model_.num_attention_heads;
    const int hidden = model_.hidden_size;
    if (mla.q_lora_rank) {
      linear("self_attn.q_a_proj", *mla.q_lora_rank, hidden, model_.attention_bias);
      norm("self_attn.q_a_layernorm.weight", *mla.q_lora_rank);
      linear("self_attn.q_b_proj", heads * model_.head_dim, *mla.q_lora_rank, false);
    } else {
      linear("self_attn.q_proj", heads * model_.head_dim, hidden, false);
    }
    linear("self_attn.kv_a_proj_with_mqa", mla.kv_lora_rank + mla.qk_rope_head_dim, hidden,
           model_.attention_bias);
    norm("self_attn.kv_a_layernorm.weight", mla.kv_lora_rank);
    linear("self_attn.kv_b_proj", heads * (mla.qk_nope_head_dim + mla.v_head_dim), mla.kv_lora_rank,
           false);
    linear("self_attn.o_proj", hidden, heads * mla.v_head_dim, model_.attention_bias);
  }

  void grouped_attention() {
    const int64_t queries = int64_t{model_.num_attention_heads} * model_.head_dim;
    const int64_t keys = int64_t{model_.num_key_value_heads} * model_.head_dim;
    const int hidden = model_.hidden_size;
    linear("self_attn.q_proj", queries, hidden, model_.attention_bias);
    linear("self_attn.k_proj", keys, hidden, model_.attention_bias);
    linear("self_attn.v_proj", keys, hidden, model_.attention_bias);
    linear("self_attn.o_proj", hidden, queries, model_.attention_bias);
    if (model_.family != ModelFamily::kQwen3Moe) return;  // Llama 4's q and k norm has no weight
    norm("self_attn.q_norm.weight", model_.head_dim);
    norm("self_attn.k_norm.weight", model_.head_dim);
  }

  void mlp_of(const std::string& where, int64_t width) {
    linear(where + ".gate_proj", width, model_.hidden_size, false);
    linear(where + ".up_proj", width, model_.hidden_size, false);
    linear(where + ".down_proj", model_.hidden_size, width, false);
  }

  void listed_experts() {
    for (int expert = 0; expert < model_.moe.num_experts; ++expert) {
      mlp_of(fmt::format("mlp.experts.{}", expert), model_.moe.intermediate_size);
    }
  }

  // Gate in the first half of the columns of gate_up_proj.
  void stacked_experts() {
    const int64_t experts = model_.moe.num_experts;
    const int64_t hidden = model_.hidden_size;
    const int64_t width = model_.moe.intermediate_size;
    add("feed_forward.router.weight", {experts, hidden}, TensorKind::kLinear);
    add("feed_forward.experts.gate_up_proj", {experts, hidden, 2 * width}, TensorKind::kLinear);
    add("feed_forward.experts.down_proj", {experts, width, hidden}, TensorKind::kLinear);
  }

  void linear(const std::string& name, int64_t out, int64_t in, bool has_bias) {
    add(name + ".weight", {out, in}, TensorKind::kLinear).may_be_fp8 = true;
    if (has_bias) bias(name + ".bias", out);
  }
  void norm(const std::string& name, int64_t size) { add(name, {size}, TensorKind::kNorm); }
  void bias(const std::string& name, int64_t size) { add(name, {size}, TensorKind::kBias); }
  void embedding(const std::string& name, bool is_optional) {
    prefix_ = root_;
    add(name, {model_.vocab_size, model_.hidden_size}, TensorKind::kEmbedding).is_optional =
        is_optional;
  }

  TensorSpec& add(const std::string& name, std::vector<int64_t> shape, TensorKind kind) {
    return list_.emplace_back(TensorSpec{prefix_ + name, std::move(shape), kind});
  }

  const ModelConfig& model_;
  const std::string root_;
  std::string prefix_;  // of the names of the layer that is being listed
  std::vector<TensorSpec> list_;
};

}  // namespace

std::string name_prefix(const ModelConfig& model) {
  return model.is_nested_text ? "language_model." : "";
}

std::vector<TensorSpec> tensor_list(const ModelConfig& model) {
  return Lister(model).list();
}

bool is_harmless_extra(std::string_view name, const ModelConfig& model) {
  if (name.ends_with(".rotary_emb.inv_freq")) return true;
  if (model.is_nested_text &&
      (name.starts_with("vision_model.") || name.starts_with("multi_modal_projector."))) {
    return true;
  }
  const std::string layers = name_prefix(model) + "model.layers.";
  if (!name.starts_with(layers)) return false;
  name.remove_prefix(layers.size());
  const auto layer = parse_int(name.substr(0, name.find('.')));
  return layer && *layer >= model.num_layers && *layer < model.num_layers + model.num_mtp_layers;
}

}  // namespace wideep::models
