// The load balancer's section: `moe_config.load_balancer`, `moe_load_balancer`, or a file of its
// own (TensorRT-LLM's moe_load_balancer.yaml, which is also how wideep writes plans).
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace wideep {

struct BalancerConfig {
  std::optional<int> num_slots;    // slots of a layer over all EP ranks; required before use
  int layer_updates_per_iter = 0;  // 0: static plan; > 0: layers that may change an iteration
  // Decoder layer -> expert of each slot [num_slots]; empty: the default assignment.
  std::map<int, std::vector<int>> initial_global_assignments;
};

// Parses the file; all violations in one status, a line each. What needs the model or the parallel
// sizes (slots >= experts, slots % ep_size, every expert placed) is checked in check_engine_config.
Result<BalancerConfig> read_balancer_config(const std::string& path);
// The same from memory; `name` stands for the file in messages.
Result<BalancerConfig> parse_balancer_config(std::string_view yaml, const std::string& name);

// The YAML text that TensorRT-LLM and read_balancer_config read: integer layer keys, inline lists.
std::string balancer_config_yaml(const BalancerConfig& config);

}  // namespace wideep
