// Plans on disk: TensorRT-LLM's moe_load_balancer.yaml, with its keys only.
#pragma once

#include <string>

#include "base/status.h"
#include "eplb/types.h"

namespace wideep::eplb {

// Reads a plan. num_experts 0: the largest id + 1. Every expert must have a slot in every layer.
Result<Plan> read_plan(const std::string& path, int num_experts = 0);
Status write_plan(const std::string& path, const Plan& plan);

}  // namespace wideep::eplb
