#include "config/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <numeric>
#include <set>

#include "config/limits.h"
#include "config/mapping.h"

namespace wideep {
namespace {

constexpr char kBalancer[] = "moe_config.load_balancer";

class CrossCheck {
 public:
  CrossCheck(const EngineConfig& config, const ModelConfig* model, Violations& violations)
      : config_(config), model_(model), violations_(violations) {}

  void run() {
    check_sizes();
    check_attention_dp();
    check_batches();
    check_cuda_graph();
    check_kv_cache();
    check_side_features();
    check_backend();
    if (model_ != nullptr) check_model();
    if (config_.moe.load_balancer) {
      check_balancer();
    } else if (model_ != nullptr) {
      check_experts_divide();
    }
  }

 private:
  bool sure(std::initializer_list<std::string_view> keys) const {
    return std::none_of(keys.begin(), keys.end(),
                        [&](std::string_view key) { return violations_.doubtful(key); });
  }
  bool given(const std::string& key) const { return config_.origins.contains(key); }

  // The line of a violation, with the place and the spelling that the key was given at.
  void refuse(const std::string& key, std::string_view value, std::string_view rule) {
    const auto origin = config_.origins.find(key);
    if (origin != config_.origins.end()) {
      violations_.add(origin->second.place, origin->second.key, value, rule);
    } else {
      violations_.add(config_.origins.empty() ? "configuration" : "default", key, value, rule);
    }
  }
  void refuse(const std::string& key, int value, std::string_view rule) {
    refuse(key, fmt::format("{}", value), rule);
  }

  // The EP size, or 0 where the sizes do not fit together.
  int ep_size() const {
    if (!sizes_fit_) return 0;
    const Result<Mapping> mapping = Mapping::create(config_.parallel);
    return mapping.is_ok() ? mapping->moe_ep() : 0;
  }

  void check_sizes() {
    sizes_fit_ = sure({"tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size",
                       "moe_tensor_parallel_size", "moe_expert_parallel_size", "pp_partition"});
    if (!sizes_fit_) return;
    for (const SizeBreach& breach : Mapping::breaches(config_.parallel)) {
      refuse(breach.key, breach.value, breach.rule);
      sizes_fit_ = false;
    }
    if (config_.cp && config_.parallel.context_parallel_size == 1) {
      refuse("cp_config", "a map", "cannot act: context_parallel_size is 1");
    }
  }

  void check_attention_dp() {
    if (!sure({"enable_attention_dp"}) || config_.parallel.enable_attention_dp) return;
    if (config_.parallel.enable_lm_head_tp_in_adp) {
      refuse("enable_lm_head_tp_in_adp", "true", "cannot act: enable_attention_dp is false");
    }
    if (config_.attention_dp.enable_balance) {
      refuse("attention_dp_config.enable_balance", "true",
             "cannot act: enable_attention_dp is false");
    }
  }

  void check_batches() {
    if (!sure({"max_batch_size", "max_num_tokens"})) return;
    if (config_.max_batch_size > config_.max_num_tokens) {
      refuse("max_batch_size", config_.max_batch_size,
             fmt::format("must be at most max_num_tokens {}: every request takes a token",
                         config_.max_num_tokens));
    }
  }

  void check_cuda_graph() {
    if (!config_.cuda_graph || !sure({"max_batch_size", "cuda_graph_config.batch_sizes",
                                      "cuda_graph_config.max_batch_size"})) {
      return;
    }
    const CudaGraphConfig& graph = *config_.cuda_graph;
    const int largest = graph.batch_sizes.empty() ? graph.max_batch_size : graph.batch_sizes.back();
    if (graph.max_batch_size != 0 && graph.max_batch_size != largest) {
      refuse("cuda_graph_config.max_batch_size", graph.max_batch_size,
             fmt::format("must equal the largest of batch_sizes, {}", largest));
    }
    if (largest > config_.max_batch_size) {
      const bool by_list = given("cuda_graph_config.batch_sizes");
      refuse(by_list ? "cuda_graph_config.batch_sizes" : "cuda_graph_config.max_batch_size",
             largest, fmt::format("cannot act: max_batch_size is {}", config_.max_batch_size));
    }
  }

  void check_kv_cache() {
    const KvCacheConfig& cache = config_.kv_cache;
    const int block = cache.tokens_per_block;
    if (sure({"kv_cache_config.tokens_per_block"}) && (block & (block - 1)) != 0) {
      refuse("kv_cache_config.tokens_per_block", block, "must be a power of two");
    }
    if (cache.enable_partial_reuse && !cache.enable_block_reuse) {
      refuse("kv_cache_config.enable_partial_reuse", "true",
             "cannot act: enable_block_reuse is false");
    }
  }

  void check_side_features() {
    const auto& transceiver = config_.cache_transceiver;
    if (!transceiver || transceiver->backend || !sure({"cache_transceiver_config.backend"})) return;
    const auto require_null = [&](const std::optional<int>& value, const char* key) {
      if (value) refuse(key, *value, "cannot act: cache_transceiver_config.backend is null");
    };
    require_null(transceiver->max_tokens_in_buffer,
                 "cache_transceiver_config.max_tokens_in_buffer");
    require_null(transceiver->kv_transfer_timeout_ms,
                 "cache_transceiver_config.kv_transfer_timeout_ms");
  }

  // WideEP spreads whole experts over all ranks, each with tokens of its own.
  void check_backend() {
    if (!sure({"moe_config.backend"}) || config_.moe.backend != MoeBackend::kWideEp) return;
    const ParallelConfig& sizes = config_.parallel;
    const int tp = sizes.tensor_parallel_size;
    const int ep = ep_size();
    if (ep > 0 && ep != tp) {
      refuse("moe_expert_parallel_size", ep,
             fmt::format("must equal tensor_parallel_size {}: backend WideEP does not slice "
                         "experts, moe_tensor_parallel_size must be 1",
                         tp));
    }
    // With a balancer, check_balancer says it.
    if (config_.moe.load_balancer || !sure({kBalancer, "enable_attention_dp"})) return;
    if (ep > 0 && tp > 1 && !sizes.enable_attention_dp) {
      refuse("moe_config.backend", "WideEP",
             "cannot act: enable_attention_dp is false, must be true");
    }
  }

  void check_model() {
    const ModelConfig& model = *model_;
    const ParallelConfig& sizes = config_.parallel;
    if (config_.max_seq_len && *config_.max_seq_len > model.max_position_embeddings) {
      refuse(
          "max_seq_len", *config_.max_seq_len,
          fmt::format("must be at most the model's {} positions", model.max_position_embeddings));
    }
    if (config_.speculative && model.num_mtp_layers == 0) {
      refuse("speculative_config", "MTP", "cannot act: the model has no MTP layers");
    }
    if (!sizes_fit_) return;
    if (sizes.pipeline_parallel_size > model.num_layers) {
      refuse("pipeline_parallel_size", sizes.pipeline_parallel_size,
             fmt::format("must be at most the model's {} layers", model.num_layers));
    }
    const int parts = std::accumulate(sizes.pp_partition.begin(), sizes.pp_partition.end(), 0);
    if (!sizes.pp_partition.empty() && parts != model.num_layers) {
      refuse("pp_partition", fmt::format("sum {}", parts),
             fmt::format("must add up to the model's {} layers", model.num_layers));
    }
    if (!sizes.enable_attention_dp && sure({"enable_attention_dp"})) check_divides_attention(model);
    check_divides_experts(model);
  }

  // Attention TP slices heads and dense layers.
  void check_divides_attention(const ModelConfig& model) {
    const int tp = config_.parallel.tensor_parallel_size;
    const auto divides = [&](int size, const char* what) {
      if (size % tp == 0) return;
      refuse("tensor_parallel_size", tp,
             fmt::format("must divide the model's {} {} (or set enable_attention_dp: true)", size,
                         what));
    };
    divides(model.num_attention_heads, "attention heads");
    if (model.num_layers > static_cast<int>(model.moe_layers.size())) {
      divides(model.intermediate_size, "columns of a dense layer");
    }
  }

  // MoE TP slices an expert's columns; quantization blocks may be cut, weights are dequantised
  // first.
  void check_divides_experts(const ModelConfig& model) {
    const int moe_tp = Mapping::create(config_.parallel)->moe_tp();
    const int columns = model.moe.intermediate_size;
    if (columns % moe_tp == 0) return;
    const bool direct = config_.parallel.moe_tensor_parallel_size.has_value();
    refuse(direct ? "moe_tensor_parallel_size" : "tensor_parallel_size", moe_tp,
           fmt::format("must divide the {} columns of an expert", columns));
  }

  void check_experts_divide() {
    const int ep = ep_size();
    const int experts = model_->moe.num_experts;
    if (ep == 0 || experts % ep == 0 || !sure({kBalancer})) return;
    refuse(
        "moe_expert_parallel_size", ep,
        fmt::format("must divide the model's {} experts; or give {} with num_slots a multiple of "
                    "{}, at least {}",
                    experts, kBalancer, ep, (experts + ep - 1) / ep * ep));
  }

  void check_balancer() {
    const std::string what =
        config_.moe.load_balancer_path.empty() ? "map" : config_.moe.load_balancer_path;
    const int ep = ep_size();
    if (ep == 1) {
      refuse(kBalancer, what, "cannot act: moe_expert_parallel_size is 1, must be more");
    }
    if (sure({"enable_attention_dp"}) && !config_.parallel.enable_attention_dp) {
      refuse(kBalancer, what, "cannot act: enable_attention_dp is false, must be true");
    }
    if (sure({"moe_config.backend"}) && config_.moe.backend != MoeBackend::kWideEp) {
      refuse(kBalancer, what,
             fmt::format("cannot act: moe_config.backend is {}, must be WideEP",
                         to_string(config_.moe.backend)));
    }
    if (!sure({kBalancer})) return;
    const BalancerConfig& balancer = *config_.moe.load_balancer;
    if (!balancer.num_slots) return refuse(kBalancer, what, "must give num_slots");
    check_slots(*balancer.num_slots, ep);
    check_assignments(balancer);
    if (balancer.layer_updates_per_iter == 0) check_offline(balancer);
  }

  // Keys of the online balancer, given by name or by a value.
  void check_offline(const BalancerConfig& balancer) {
    const BalancerConfig fallback;
    const auto refuse_key = [&](const char* name, const auto& value, bool is_set) {
      const std::string key = fmt::format("{}.{}", kBalancer, name);
      if (!is_set && !given(key)) return;
      refuse(key, fmt::format("{}", value),
             "cannot act: layer_updates_per_iter is 0, the plan stays as it is");
    };
    refuse_key("decay", balancer.decay, balancer.decay != fallback.decay);
    refuse_key("max_transfers_per_iter", balancer.max_transfers_per_iter,
               balancer.max_transfers_per_iter != fallback.max_transfers_per_iter);
    refuse_key("min_gain", balancer.min_gain, balancer.min_gain != fallback.min_gain);
    refuse_key("weight_source", weight_source_name(balancer.weight_source),
               balancer.weight_source != fallback.weight_source);
    refuse_key("algorithm", algorithm_name(balancer.algorithm),
               balancer.algorithm != fallback.algorithm);
  }

  void check_slots(int slots, int ep) {
    const std::string key = fmt::format("{}.num_slots", kBalancer);
    if (ep > 0 && slots % ep != 0) {
      refuse(key, slots,
             fmt::format("must be a multiple of moe_expert_parallel_size {} (nearest: {})", ep,
                         std::max(1, (slots + ep / 2) / ep) * ep));
    }
    if (model_ == nullptr) return;
    const int experts = model_->moe.num_experts;
    if (slots < experts) {
      refuse(key, slots, fmt::format("must be at least the model's {} experts", experts));
    }
    if (ep > 0 && slots / ep > experts) {
      refuse(key, slots,
             fmt::format("must be at most {}: a rank cannot use more slots than there are experts",
                         int64_t{ep} * experts));
    }
  }

  void check_assignments(const BalancerConfig& balancer) {
    const auto& assignments = balancer.initial_global_assignments;
    if (assignments.empty()) return;
    int experts = model_ != nullptr ? model_->moe.num_experts : 0;
    if (model_ == nullptr) {
      for (const auto& [layer, slots] : assignments) {
        if (!slots.empty()) experts = std::max(experts, *std::ranges::max_element(slots) + 1);
      }
    }
    for (const auto& [layer, slots] : assignments) {
      check_layer(layer, slots, *balancer.num_slots, experts);
    }
    if (model_ != nullptr) check_layers(assignments);
  }

  void check_layer(int layer, const std::vector<int>& slots, int num_slots, int experts) {
    const std::string key = fmt::format("{}.initial_global_assignments.{}", kBalancer, layer);
    const std::string value = fmt::format("a list of {}", slots.size());
    if (static_cast<int>(slots.size()) != num_slots) {
      return refuse(key, value, fmt::format("must have num_slots = {} entries", num_slots));
    }
    std::vector<int> replicas(static_cast<size_t>(experts), 0);
    for (const int expert : slots) {
      if (expert < 0 || expert >= experts) {
        return refuse(key, expert,
                      fmt::format("must be an expert id of the model, 0 to {}", experts - 1));
      }
      ++replicas[static_cast<size_t>(expert)];
    }
    const auto missing = std::ranges::count(replicas, 0);
    if (missing == 0) return;
    const auto first = std::ranges::find(replicas, 0) - replicas.begin();
    refuse(key, value,
           fmt::format("every expert must have a slot: {} of {} have none, the first is {}",
                       missing, experts, first));
  }

  // The layers of the assignments are the MoE layers; those of MTP only where it is on.
  void check_layers(const std::map<int, std::vector<int>>& assignments) {
    const std::string key = fmt::format("{}.initial_global_assignments", kBalancer);
    const std::set<int> moe(model_->moe_layers.begin(), model_->moe_layers.end());
    const auto is_mtp = [&](int layer) {
      return layer >= model_->num_layers && layer < model_->num_layers + model_->num_mtp_layers;
    };
    std::vector<int> missing;
    for (const int layer : moe) {
      if (!assignments.contains(layer)) missing.push_back(layer);
    }
    if (!missing.empty()) {
      refuse(key, fmt::format("{} layers", assignments.size()),
             fmt::format("must have every MoE layer of the model: missing {}",
                         fmt::join(missing, ", ")));
    }
    for (int i = 0; i < model_->num_mtp_layers && config_.speculative; ++i) {
      const int layer = model_->num_layers + i;
      if (assignments.contains(layer)) continue;
      refuse(key, fmt::format("{} layers", assignments.size()),
             fmt::format("must have layer {}: it is the MTP layer, which speculative_config uses",
                         layer));
    }
    for (const auto& [layer, slots] : assignments) {
      if (moe.contains(layer) || is_mtp(layer)) continue;
      refuse(fmt::format("{}.{}", key, layer), fmt::format("a list of {}", slots.size()),
             fmt::format("layer {} of the model is not an MoE layer", layer));
    }
  }

  const EngineConfig& config_;
  const ModelConfig* model_;
  Violations& violations_;
  bool sizes_fit_ = false;
};

}  // namespace

void add_cross_violations(const EngineConfig& config, const ModelConfig* model,
                          Violations& violations) {
  CrossCheck(config, model, violations).run();
}

Status check_engine_config(const EngineConfig& config, const ModelConfig* model) {
  Violations violations;
  add_cross_violations(config, model, violations);
  return violations.status();
}

}  // namespace wideep
