// The published models' config.json, shortened to the keys that are read, for tests.
#pragma once

#include "base/json.h"

namespace wideep {

inline Json deepseek_r1_json() {
  return Json::parse(R"({
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
    "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432,
    "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_attention_heads": 128,
    "num_key_value_heads": 128, "n_shared_experts": 1, "n_routed_experts": 256,
    "routed_scaling_factor": 2.5, "kv_lora_rank": 512, "q_lora_rank": 1536,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128, "n_group": 8,
    "topk_group": 4, "topk_method": "noaux_tc", "num_experts_per_tok": 8, "moe_layer_freq": 1,
    "first_k_dense_replace": 3, "norm_topk_prob": true, "scoring_func": "sigmoid",
    "hidden_act": "silu", "max_position_embeddings": 163840, "num_nextn_predict_layers": 1,
    "rms_norm_eps": 1e-06, "attention_bias": false, "tie_word_embeddings": false,
    "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16", "rope_theta": 10000,
    "rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1,
                     "mscale": 1.0, "mscale_all_dim": 1.0,
                     "original_max_position_embeddings": 4096},
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3",
                            "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
  })");
}

inline Json qwen3_235b_json() {
  return Json::parse(R"({
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": false,
    "bos_token_id": 151643, "eos_token_id": 151645, "decoder_sparse_step": 1, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 12288,
    "max_position_embeddings": 40960, "max_window_layers": 94, "mlp_only_layers": [],
    "moe_intermediate_size": 1536, "norm_topk_prob": true, "num_attention_heads": 64,
    "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 94,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_scaling": null,
    "rope_theta": 1000000.0, "sliding_window": null, "tie_word_embeddings": false,
    "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151936
  })");
}

inline Json llama4_maverick_json() {
  return Json::parse(R"({
    "architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4",
    "torch_dtype": "bfloat16", "tie_word_embeddings": false,
    "text_config": {
      "model_type": "llama4_text", "attention_bias": false, "attention_chunk_size": 8192,
      "attn_scale": 0.1, "attn_temperature_tuning": 4, "floor_scale": 8192, "bos_token_id": 200000,
      "eos_token_id": [200001, 200007, 200008], "head_dim": 128, "hidden_act": "silu",
      "hidden_size": 5120, "interleave_moe_layer_step": 2, "intermediate_size": 8192,
      "intermediate_size_mlp": 16384, "max_position_embeddings": 1048576, "moe_layers": [],
      "no_rope_layers": [], "num_attention_heads": 40, "num_experts_per_tok": 1,
      "num_hidden_layers": 48, "num_key_value_heads": 8, "num_local_experts": 128,
      "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 500000.0, "use_qk_norm": false,
      "vocab_size": 202048
    },
    "vision_config": {"hidden_size": 1408}
  })");
}

}  // namespace wideep
