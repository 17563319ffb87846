// Backend WideEP as the configuration asks for it, on the layers of one rank.
#pragma once

#include <optional>

#include "base/dtype.h"
#include "config/engine_config.h"
#include "config/mapping.h"
#include "config/model_config.h"
#include "moe/wide_ep.h"

namespace wideep::models {

// What the MoE layers among `layers` of a rank share. The configuration has passed
// check_engine_config: without a balancer every expert has one slot, the experts in order.
// gpu_weights: the type of the experts where they are on a GPU.
moe::WideEpOptions wide_ep_options(const ModelConfig& model, const EngineConfig& engine,
                                   const Mapping& mapping, const Mapping::Layers& layers,
                                   std::optional<DType> gpu_weights);

}  // namespace wideep::models
