#include "eplb/plan_file.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"
#include "config/balancer_config.h"

namespace wideep::eplb {
namespace {

Status check_row(const std::string& path, int layer, std::span<const int> row, int num_experts) {
  std::vector<bool> placed(num_experts, false);
  for (const int expert : row) {
    if (expert < 0 || expert >= num_experts) {
      return Status::invalid_input(fmt::format("{}: layer {}: expert {} is not in [0, {})", path,
                                               layer, expert, num_experts));
    }
    placed[expert] = true;
  }
  const auto missing = std::find(placed.begin(), placed.end(), false);
  if (missing == placed.end()) return Status::ok();
  return Status::invalid_input(
      fmt::format("{}: layer {}: expert {} has no slot; every expert needs one", path, layer,
                  missing - placed.begin()));
}

}  // namespace

Result<Plan> read_plan(const std::string& path, int num_experts) {
  ASSIGN_OR_RETURN(const BalancerConfig config, read_balancer_config(path));
  if (config.initial_global_assignments.empty()) {
    return Status::invalid_input(
        fmt::format("{}: initial_global_assignments: missing; a plan needs the assignment of every "
                    "MoE layer (make one with `wideep eplb generate`)",
                    path));
  }
  Plan plan;
  plan.layer_updates_per_iter = config.layer_updates_per_iter;
  const auto& assignments = config.initial_global_assignments;
  plan.num_slots = config.num_slots.value_or(static_cast<int>(assignments.begin()->second.size()));
  plan.num_experts = num_experts;
  if (num_experts == 0) {
    for (const auto& [layer, slots] : assignments) {
      if (slots.empty()) continue;
      plan.num_experts =
          std::max(plan.num_experts, *std::max_element(slots.begin(), slots.end()) + 1);
    }
  }
  for (const auto& [layer, slots] : assignments) {
    if (static_cast<int>(slots.size()) != plan.num_slots) {
      return Status::invalid_input(fmt::format("{}: layer {}: {} slots, but num_slots is {}", path,
                                               layer, slots.size(), plan.num_slots));
    }
    RETURN_IF_ERROR(check_row(path, layer, slots, plan.num_experts));
    plan.layers.push_back(layer);
    plan.slots.insert(plan.slots.end(), slots.begin(), slots.end());
  }
  return plan;
}

Status write_plan(const std::string& path, const Plan& plan) {
  BalancerConfig config;
  config.num_slots = plan.num_slots;
  config.layer_updates_per_iter = plan.layer_updates_per_iter;
  for (int i = 0; i < plan.num_layers(); ++i) {
    const auto row = plan.row(i);
    config.initial_global_assignments[plan.layers[i]] = {row.begin(), row.end()};
  }
  return write_file(path, balancer_config_yaml(config));
}

}  // namespace wideep::eplb
