// What every load must obey, whatever file it comes from. Internal to the readers of load.h.
#pragma once

#include <string>

#include "base/status.h"
#include "eplb/types.h"

namespace wideep::eplb {

// Tokens of one expert or layer beyond this are no count of tokens; below it, sums over layers and
// products with slots and ranks stay inside 64 bits.
inline constexpr int64_t kMaxLayerTokens = int64_t{1} << 50;

// Whether rows without tokens at the front are dense layers that are left out.
enum class DenseFront { kKeep, kDrop };

// Numbers the rows of load.tokens from 0 if load.layers is empty, drops the dense front, and checks
// sizes and sums. A load without any token is an error. `name` opens the messages.
Result<Load> finish_load(Load load, DenseFront dense_front, const std::string& name);

}  // namespace wideep::eplb
