// The table of the engine's keys.
#pragma once

#include "config/engine_config.h"
#include "config/schema.h"

namespace wideep {

const Schema<EngineConfig>& engine_schema();

}  // namespace wideep
