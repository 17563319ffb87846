// What TensorGroup promises, for any device.
#pragma once

#include "base/dtype.h"
#include "base/status.h"
#include "base/stream.h"
#include "dist/communicator.h"

namespace wideep::dist {

// Every collective on small integers, whose sums are exact in any order, of random sizes, some of
// them zero. Called on every rank; `seed` is the same on all.
Status check_tensor_group(Communicator& group, Stream& stream, DType dtype, uint64_t seed);

}  // namespace wideep::dist
