// SGLang's expert distribution as json: {"logical_count": ...} with lists [layers][experts] or
// [steps][layers][experts] of whole numbers (floats such as 12.0 too). Internal to load.h.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "eplb/types.h"

namespace wideep::eplb {

// Sums the steps. Layers without a token at the front are dense layers and left out. `name` (the
// path) opens the messages, which name the layer and the expert of a bad count.
Result<Load> parse_sglang_load(std::string_view text, const std::string& name);

}  // namespace wideep::eplb
