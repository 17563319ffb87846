// The rules over several keys, and between keys and model. A setting that cannot act is a
// violation: nothing that was asked for is silently ignored.
#pragma once

#include "base/status.h"
#include "config/engine_config.h"
#include "config/model_config.h"

namespace wideep {

// Judges a complete configuration; `model` may be nullptr, then what needs it is not judged. All
// violations in one status, a line each: "place: key: value: rule".
Status check_engine_config(const EngineConfig& config, const ModelConfig* model = nullptr);

// The same into `violations`, without the rules over keys that it doubts.
void add_cross_violations(const EngineConfig& config, const ModelConfig* model,
                          Violations& violations);

}  // namespace wideep
