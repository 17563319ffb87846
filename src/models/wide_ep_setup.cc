#include "models/wide_ep_setup.h"

#include <algorithm>
#include <vector>

namespace wideep::models {
namespace {

void set_online(const BalancerConfig& balancer, moe::WideEpOptions& options) {
  options.layer_updates_per_iter = balancer.layer_updates_per_iter;
  options.max_transfers_per_iter = balancer.max_transfers_per_iter;
  options.weight_source = balancer.weight_source;
  options.shared_memory.huge_pages = true;
  options.online.decay = balancer.decay;
  options.online.min_gain = balancer.min_gain;
  options.online.replica_choice = balancer.replica_choice;
  options.online.plan.algorithm = balancer.algorithm;
  // Of a layer's turn. After a shift of domains on 9 ranks and 72 slots, a balance within 0.01 of a
  // plan from scratch cost 25 % of its transfers with about one a rank, and 40 % with two.
  options.online.plan.max_transfers = options.shape.num_ranks;
}

moe::SlotExchangeOptions exchange_options(const ModelConfig& model, const EngineConfig& engine,
                                          const moe::WideEpOptions& shared, DType weights) {
  moe::SlotExchangeOptions exchange;
  exchange.shape = shared.shape;
  exchange.layer = {.hidden_size = model.hidden_size,
                    .intermediate_size = model.moe.intermediate_size,
                    .top_k = model.moe.top_k,
                    .weight_scales_input = shared.all_to_all.weight_scales_input};
  exchange.weights = weights;
  exchange.combine = shared.all_to_all.combine;
  exchange.max_tokens = shared.all_to_all.max_tokens;
  exchange.max_tokens_of_rank = std::min<int64_t>(engine.max_num_tokens, shared.max_num_tokens);
  return exchange;
}

}  // namespace

moe::WideEpOptions wide_ep_options(const ModelConfig& model, const EngineConfig& engine,
                                   const Mapping& mapping, const Mapping::Layers& layers,
                                   std::optional<DType> gpu_weights) {
  const BalancerConfig balancer = engine.moe.load_balancer.value_or(BalancerConfig{});
  moe::WideEpOptions options;
  options.shape = {.num_experts = model.moe.num_experts,
                   .num_slots = balancer.num_slots.value_or(model.moe.num_experts),
                   .num_ranks = mapping.moe_ep()};
  for (const int layer : model.moe_layers) {
    if (layer < layers.begin || layer >= layers.end) continue;
    options.layers.push_back(layer);
    const auto given = balancer.initial_global_assignments.find(layer);
    const bool is_given = given != balancer.initial_global_assignments.end();
    options.slots.push_back(is_given ? given->second : std::vector<int>());
  }
  options.replica_choice = balancer.replica_choice;
  const int64_t most = int64_t{engine.max_num_tokens} * mapping.moe_ep();
  options.max_num_tokens = std::min<int64_t>(engine.moe.max_num_tokens.value_or(INT32_MAX), most);
  options.all_to_all.num_slots = options.shape.num_slots;
  options.all_to_all.top_k = model.moe.top_k;
  options.all_to_all.hidden_size = model.hidden_size;
  // Every rank may round its part of a chunk up by one token.
  options.all_to_all.max_tokens = std::min(most, options.max_num_tokens + mapping.moe_ep());
  options.all_to_all.combine = balancer.combine;
  options.all_to_all.weight_scales_input = model.moe.scoring == Scoring::kSigmoidInput;
  if (gpu_weights) options.exchange = exchange_options(model, engine, options, *gpu_weights);
  set_online(balancer, options);
  return options;
}

}  // namespace wideep::models
