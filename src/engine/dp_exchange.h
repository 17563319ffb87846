// What attention-DP ranks tell each other before an iteration.
#pragma once

#include "base/status.h"
#include "dist/groups.h"
#include "models/model.h"

namespace wideep::engine {

// Collective over the tp group, with this rank's tokens in the batch: fills batch.dp_tokens,
// batch.all_decode and batch.balancer_states. Returns whether any rank has tokens; if none has,
// there is no iteration.
Result<bool> exchange_dp_state(const dist::Groups& groups, models::Model& model,
                               models::Batch& batch);

}  // namespace wideep::engine
