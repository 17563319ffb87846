// Backend WideEP as the configuration asks for it, on the layers of one rank.
#pragma once

#include "base/status.h"
#include "base/stream.h"
#include "config/engine_config.h"
#include "config/mapping.h"
#include "config/model_config.h"
#include "moe/wide_ep.h"

namespace wideep::models {

// kInvalidInput where the stream's device does not run the backend.
Status check_backend(const Stream& stream, const EngineConfig& engine);

// What the MoE layers among `layers` of a rank share. The configuration has passed
// check_engine_config: without a balancer every expert has one slot, the experts in order.
moe::WideEpOptions wide_ep_options(const ModelConfig& model, const EngineConfig& engine,
                                   const Mapping& mapping, const Mapping::Layers& layers);

}  // namespace wideep::models
