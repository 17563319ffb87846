// Going on together or not at all.
#pragma once

#include "base/status.h"
#include "dist/communicator.h"

namespace wideep::dist {

// A collective: ok where it is on every rank. A rank that failed gets its own error, the others one
// that names such a rank.
Status agree(Communicator& group, const Status& own);

}  // namespace wideep::dist
